"""The gateway worker's tables: payments whose outcome has to be asked for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from common.contracts.event import derived_id
from common.db.tenant_rows import TYPES, TenantRow


class Base(DeclarativeBase):
    type_annotation_map = TYPES | {dict[str, Any]: JSONB}


class PendingPayment(TenantRow, Base):
    """`ask_at` is null when there is nothing more to ask. `told` is the last standing that was
    published, `charges` the provider's ids of the charges that were, where there can be several;
    `hinted_at` when the provider first spoke of it by itself."""

    __tablename__ = "watched_payments"

    provider: Mapped[str]
    endpoint: Mapped[str]
    reference: Mapped[str]
    hint_reference: Mapped[str | None]
    announced: Mapped[bool] = mapped_column(server_default="false")
    amount: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None]
    lookup: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    correlation_id: Mapped[str]
    cause_id: Mapped[str]
    expires_at: Mapped[datetime]
    hinted_at: Mapped[datetime | None]
    asked: Mapped[int] = mapped_column(server_default="0")
    asked_at: Mapped[datetime | None]
    ask_at: Mapped[datetime | None]
    told: Mapped[str] = mapped_column(server_default="pending")
    charges: Mapped[list[str]] = mapped_column(server_default="{}")
    error: Mapped[str | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    __table_args__ = (
        Index(
            "watched_payments_due",
            "provider",
            "endpoint",
            text("announced DESC"),
            "ask_at",
            postgresql_where=text("ask_at IS NOT NULL"),
        ),
        Index("watched_payments_hint", "provider", "endpoint", "hint_reference"),
        Index("watched_payments_age", "updated_at"),
    )


class AskBudget(Base):
    """How many questions an endpoint's provider may be asked now, by all replicas together."""

    __tablename__ = "ask_budgets"

    path: Mapped[str] = mapped_column(primary_key=True)
    tokens: Mapped[float]
    filled_at: Mapped[datetime]


class StripeEventCursor(Base):
    """Up to when (the provider's time stamps) an endpoint's event list was read."""

    __tablename__ = "event_cursors"

    path: Mapped[str] = mapped_column(primary_key=True)
    read_to: Mapped[datetime]
    read_next_at: Mapped[datetime]


def payment_id(tenant: str, provider: str, endpoint: str, reference: str) -> str:
    return derived_id("watched_payments", tenant, provider, endpoint, reference)

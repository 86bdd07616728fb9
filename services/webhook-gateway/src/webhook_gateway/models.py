"""The gateway worker's tables: polled payments, and positions in Stripe's event lists."""

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
    """A payment that is polled. `next_poll_at` is null when polling has ended. `published_status`
    is the last status that was published; `charges` are the provider's ids of the published
    charges, where there can be several; `notified_at` is when the provider first sent a
    notification."""

    __tablename__ = "pending_payments"

    provider: Mapped[str]
    endpoint: Mapped[str]
    reference: Mapped[str]
    notification_reference: Mapped[str | None]
    announced: Mapped[bool] = mapped_column(server_default="false")
    amount: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None]
    lookup: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    correlation_id: Mapped[str]
    cause_id: Mapped[str]
    expires_at: Mapped[datetime]
    notified_at: Mapped[datetime | None]
    poll_count: Mapped[int] = mapped_column(server_default="0")
    last_polled_at: Mapped[datetime | None]
    next_poll_at: Mapped[datetime | None]
    published_status: Mapped[str] = mapped_column(server_default="pending")
    charges: Mapped[list[str]] = mapped_column(server_default="{}")
    error: Mapped[str | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    __table_args__ = (
        Index(
            "pending_payments_due",
            "provider",
            "endpoint",
            text("announced DESC"),
            "next_poll_at",
            postgresql_where=text("next_poll_at IS NOT NULL"),
        ),
        Index("pending_payments_notification", "provider", "endpoint", "notification_reference"),
        Index("pending_payments_age", "updated_at"),
    )


class StripeEventCursor(Base):
    """The time up to which an endpoint's event list was read, by the provider's timestamps."""

    __tablename__ = "stripe_event_cursors"

    path: Mapped[str] = mapped_column(primary_key=True)
    read_to: Mapped[datetime]
    read_next_at: Mapped[datetime]


def payment_id(tenant: str, provider: str, endpoint: str, reference: str) -> str:
    return derived_id("pending_payments", tenant, provider, endpoint, reference)

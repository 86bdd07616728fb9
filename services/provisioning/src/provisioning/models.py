"""The provisioning service's tables."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Identity, Index, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from common.contracts.event import derived_id
from common.db.tenant_rows import TYPES, TenantRow


class Base(DeclarativeBase):
    type_annotation_map = TYPES


class Integration(TenantRow, Base):
    """A customer's organization in the backend API. Its id is our reference there."""

    __tablename__ = "integrations"

    customer_id: Mapped[str]
    email: Mapped[str | None]
    name: Mapped[str | None]
    contact_sequence: Mapped[int] = mapped_column(server_default="0")
    desired_state: Mapped[str] = mapped_column(server_default="absent")
    observed_state: Mapped[str] = mapped_column(server_default="absent")
    status: Mapped[str] = mapped_column(server_default="not_needed")
    organization_id: Mapped[str | None]
    admin_created: Mapped[bool] = mapped_column(server_default="false")
    error: Mapped[str | None]
    failed_event_id: Mapped[str | None]
    # Of the event that last changed what is desired: a retry belongs to the same trace.
    correlation_id: Mapped[str | None]
    # The intent: the process that calls the backend API now, until when, and whether an earlier
    # call's outcome is unknown, so that its result has to be queried before the next call.
    lease: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    outcome_unknown: Mapped[bool] = mapped_column(server_default="false")
    # How many calls ended after another process had taken over: they may have undone its call.
    late_calls: Mapped[int] = mapped_column(server_default="0")
    version: Mapped[int] = mapped_column(server_default="0")
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    # Loaded only by queries that request it, never lazily.
    subscriptions: Mapped[list[Subscription]] = relationship(
        primaryjoin="Integration.id == foreign(Subscription.integration_id)",
        viewonly=True,
        lazy="raise",
    )

    __table_args__ = (
        Index("integrations_page", "tenant", "created_at", "id"),
        Index("integrations_status", "tenant", "status", "created_at", "id"),
    )


class Subscription(TenantRow, Base):
    """The known state of one subscription: its newest `sequence`, and whether it is active."""

    __tablename__ = "subscriptions"

    integration_id: Mapped[str]
    active: Mapped[bool] = mapped_column(server_default="false")
    sequence: Mapped[int] = mapped_column(server_default="-1")

    __table_args__ = (Index("subscriptions_integration", "integration_id"),)


class Attempt(Base):
    """One operation against the backend API. `outcome` is null while it runs, or after a crash."""

    __tablename__ = "attempts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    integration_id: Mapped[str]
    operation: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    error: Mapped[str | None]

    __table_args__ = (
        Index("attempts_integration", "integration_id", "id"),
        Index("attempts_finished", "finished_at"),
    )


def integration_id(tenant: str, customer_id: str) -> str:
    return derived_id("integrations", tenant, customer_id)

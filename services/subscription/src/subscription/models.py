"""Tables of the subscription service. Ids are derived from the provider's ids, so any report can
name a row before it exists."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from common.contracts.event import derived_id
from common.db.tenant_rows import TYPES, TenantRow
from subscription.domain import ENTITLING
from subscription.schemas.checkout import NewCheckout

# The provider of customers, plans and subscriptions that Paybus itself manages.
OURS: Final = "paybus"
# Key of our checkout's id in the metadata of Stripe's sessions, which payers cannot set.
CHECKOUT_IN_METADATA: Final = "paybus_checkout"


COMMAND_IN_METADATA: Final = "paybus_command"


class Base(DeclarativeBase):
    type_annotation_map = TYPES | {dict[str, Any]: JSONB, list[dict[str, Any]]: JSONB}


class Row(TenantRow, Base):
    """A provider's object, as known here."""

    __abstract__ = True

    provider: Mapped[str]


class Customer(Row):
    __tablename__ = "customers"

    provider_customer_id: Mapped[str]
    email: Mapped[str | None]
    email_at: Mapped[datetime | None]
    email_event_id: Mapped[str | None]
    name: Mapped[str | None]
    name_at: Mapped[datetime | None]
    name_event_id: Mapped[str | None]
    # When the provider deleted it, with all contact data.
    deleted_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default="0")

    __table_args__ = (
        Index("customers_page", "tenant", "created_at", "id"),
        Index("customers_named", "tenant", "provider_customer_id"),
    )


class Plan(Row):
    __tablename__ = "plans"

    provider_plan_id: Mapped[str]
    name: Mapped[str | None]
    amount: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None]
    interval: Mapped[str | None]
    interval_count: Mapped[int] = mapped_column(server_default="1")
    seen_at: Mapped[datetime]
    seen_event_id: Mapped[str]

    __table_args__ = (Index("plans_page", "tenant", "created_at", "id"),)


class Subscription(Row):
    __tablename__ = "subscriptions"

    provider_subscription_id: Mapped[str]
    customer_id: Mapped[str]
    # Derived by `domain`, stored for queries. `phase` is the last one published.
    status: Mapped[str] = mapped_column(server_default="incomplete")
    phase: Mapped[str] = mapped_column(server_default="unused")
    plan_id: Mapped[str | None]
    items: Mapped[list[dict[str, Any]]] = mapped_column(server_default="[]")
    current_period_end: Mapped[datetime | None]
    cancel_at_period_end: Mapped[bool] = mapped_column(server_default="false")
    cancel_at: Mapped[datetime | None]
    trialing: Mapped[bool] = mapped_column(server_default="false")
    collection_paused: Mapped[bool] = mapped_column(server_default="false")
    # Whether the newest payment was refunded in full, or is disputed.
    refunded: Mapped[bool] = mapped_column(server_default="false")
    disputed: Mapped[bool] = mapped_column(server_default="false")
    # The input of that derivation. `snapshots` are all of the newest seconds, up to `snapshot_at`;
    # `statuses` are those it was seen with, and when.
    ever_active: Mapped[bool] = mapped_column(server_default="false")
    ever_beyond_trial: Mapped[bool] = mapped_column(server_default="false")
    snapshot_at: Mapped[datetime | None]
    snapshots: Mapped[list[dict[str, Any]]] = mapped_column(server_default="[]")
    statuses: Mapped[list[dict[str, Any]]] = mapped_column(server_default="[]")
    payment_at: Mapped[datetime | None]
    payment_event_id: Mapped[str | None]
    payment_paid: Mapped[bool | None]
    # When the renewals job next processes it; for our own, the period end of the last reminder.
    due_at: Mapped[datetime | None]
    policy_version: Mapped[int] = mapped_column(server_default="0")
    reminder_sent_for: Mapped[datetime | None]
    # For our own: `now` or `period_end`, and when that cancellation was requested.
    cancel_when: Mapped[str | None]
    cancel_requested_at: Mapped[datetime | None]
    # Payments up to this time were forfeited by a cancellation: they never count again.
    forfeited_until: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default="0")
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    @property
    def entitles(self) -> bool:
        return self.phase in ENTITLING

    __table_args__ = (
        Index("subscriptions_page", "tenant", "created_at", "id"),
        Index("subscriptions_status", "tenant", "status", "created_at", "id"),
        Index("subscriptions_customer", "tenant", "customer_id"),
        Index("subscriptions_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index(
            "subscriptions_judged",
            "tenant",
            "policy_version",
            postgresql_where=text(
                "status IN ('past_due', 'unpaid', 'paused') "
                "OR trialing OR collection_paused OR refunded OR disputed"
            ),
        ),
    )


class Payment(Row):
    __tablename__ = "payments"

    provider_payment_id: Mapped[str]
    customer_id: Mapped[str | None]
    subscription_id: Mapped[str | None]
    # Null until the first report is applied, in the transaction that inserts the row.
    paid: Mapped[bool | None]
    reported_at: Mapped[datetime | None]
    reported_event_id: Mapped[str | None]
    amount: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None]
    reason: Mapped[str | None]
    references: Mapped[list[str]] = mapped_column(server_default="{}")
    checkout_id: Mapped[str | None]

    __table_args__ = (
        Index("payments_page", "tenant", "created_at", "id"),
        Index("payments_references", "references", postgresql_using="gin"),
        Index("payments_subscription", "tenant", "subscription_id"),
    )


class Reversal(Row):
    """The refunds of a charge, a failed refund or a dispute. It refers to its payment by shared
    references, so it may arrive first.

    `total` is what the provider reported last, at `status_at`; `amount` is that less the refunds
    that failed since. `began_at` is when a refund that failed was created. `status` is a dispute's.
    `version` counts the changes. Rows of version 0.2.0 have neither `total` nor `status_at`.
    """

    __tablename__ = "reversals"

    kind: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str]
    reason: Mapped[str | None]
    references: Mapped[list[str]]
    reported_at: Mapped[datetime]
    began_at: Mapped[datetime | None]
    status: Mapped[str | None]
    status_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default="1")

    __table_args__ = (Index("reversals_references", "references", postgresql_using="gin"),)


class Checkout(Row):
    """A payment that Paybus started, or is about to start. `terms` and `payer` (encrypted) are the
    caller's request, `reference` is the provider's id of the payment, `error` why it was rejected
    or what was paid instead."""

    __tablename__ = "checkouts"

    account: Mapped[str]
    idempotency_key: Mapped[str]
    terms: Mapped[dict[str, Any]]
    payer: Mapped[str]
    status: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default="0")
    amount: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None]
    customer_id: Mapped[str | None]
    subscription_id: Mapped[str | None]
    reference: Mapped[str | None]
    url: Mapped[str | None]
    expires_at: Mapped[datetime | None]
    error: Mapped[str | None]
    paid_at: Mapped[datetime | None]
    reported_at: Mapped[datetime | None]
    reported_event_id: Mapped[str | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    __table_args__ = (
        Index("checkouts_page", "tenant", "created_at", "id"),
        Index("checkouts_reference", "reference"),
        Index("checkouts_subscription", "subscription_id"),
        Index("checkouts_payer", "tenant", text("(terms #>> '{customer,reference}')")),
    )


class Refund(Row):
    """A requested refund of a checkout. The intent is stored before the provider is called. Each of
    its `attempts` has a key of its own there."""

    __tablename__ = "refunds"

    checkout_id: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    reason: Mapped[str]
    status: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default="1")
    # Number of the newest request that was honoured; a repeated one requests nothing.
    requests: Mapped[int] = mapped_column(server_default="1")
    reports: Mapped[int] = mapped_column(server_default="0")
    provider_refund_id: Mapped[str | None]
    error: Mapped[str | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    __table_args__ = (Index("refunds_checkout", "checkout_id"),)


class Command(Row):
    """A requested operation at the provider on `subject`, its customer or its subscription. `begun`
    counts its calls, `ended` those whose end is known; `accepted_at` is when its caller learned
    that it will be done, `confirmed_at` when a report showed it."""

    __tablename__ = "billing_commands"

    account: Mapped[str]
    idempotency_key: Mapped[str]
    kind: Mapped[str]
    subject: Mapped[str]
    request: Mapped[dict[str, Any]]
    status: Mapped[str]
    attempts: Mapped[int] = mapped_column(server_default="1")
    result: Mapped[dict[str, Any] | None]
    error: Mapped[str | None]
    begun: Mapped[int] = mapped_column(server_default="0")
    ended: Mapped[int] = mapped_column(server_default="0")
    # When a call ended without a response: it may still take effect.
    unanswered_at: Mapped[datetime | None]
    accepted_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    __table_args__ = (
        Index("billing_commands_page", "tenant", "created_at", "id"),
        Index(
            "billing_commands_unconfirmed",
            "tenant",
            "subject",
            postgresql_where=text("confirmed_at IS NULL"),
        ),
        Index(
            "billing_commands_unfinished",
            "updated_at",
            postgresql_where=text("status IN ('open', 'accepted')"),
        ),
    )


class EntitlementPolicy(Base):
    """A tenant's policy for customers who do not pay. `version` counts its changes."""

    __tablename__ = "entitlement_policies"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    policy: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column(server_default="1")
    changed_by: Mapped[str]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())


def row_id(table: type[Row], tenant: str, provider: str, provider_id: str) -> str:
    """Return our id of a provider's object."""
    return derived_id(table.__tablename__, tenant, provider, provider_id)


def our_subscription(request: NewCheckout) -> str | None:
    """Return the name of the subscription that a checkout extends, with any provider; None for a
    single payment. A customer has one subscription per plan."""
    return f"{request.customer.reference}/{request.plan.plan_id}" if request.plan else None

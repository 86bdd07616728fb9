"""Tables of the orders service. Amounts are in minor units, times in UTC."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, Date, Index, Integer, Numeric, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from common.contracts.event import derived_id
from common.db.tenant_rows import TYPES, TenantRow


class Base(DeclarativeBase):
    type_annotation_map = TYPES | {
        dict[str, Any]: JSONB,
        dict[str, int]: JSONB,
        int: BigInteger,
        date: Date,
        Decimal: Numeric,
    }


class Row(TenantRow, Base):
    __abstract__ = True


class Order(Row):
    """An order. `request` is the request as placed, `contact` the buyer's encrypted contact data
    (`buyers.py`), `terms` the tenant's terms at that time. `refunded` is the total requested to be
    refunded from the accepted payment (`paid_by`, a payment's id), `held` what is held back from
    the sellers because of refunds and disputes at the provider; `due_at` is when the scheduled job
    next processes the order."""

    __tablename__ = "orders"

    reference: Mapped[str]
    idempotency_key: Mapped[str]
    request: Mapped[dict[str, Any]]
    contact: Mapped[str]
    buyer: Mapped[str]
    state: Mapped[str]
    currency: Mapped[str]
    total: Mapped[int]
    terms: Mapped[dict[str, Any]]
    pay_by: Mapped[datetime]
    reminded_at: Mapped[datetime | None]
    paid_at: Mapped[datetime | None]
    paid_by: Mapped[str | None]
    refunded: Mapped[int] = mapped_column(server_default="0")
    held: Mapped[int] = mapped_column(server_default="0")
    cancelled_at: Mapped[datetime | None]
    # The caller who cancelled it; null when it was cancelled automatically for non-payment.
    cancelled_by: Mapped[str | None]
    fulfilled_at: Mapped[datetime | None]
    release_at: Mapped[datetime | None]
    released_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default="0")
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    __table_args__ = (
        Index("orders_page", "tenant", "created_at", "id"),
        Index("orders_state", "tenant", "state", "created_at", "id"),
        Index("orders_reference", "tenant", "reference"),
        Index("orders_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    )


class Line(Row):
    """A line of an order. `amount` is in the order's currency: `original_amount` of
    `original_currency` at `rate`, published for `rate_day` by `rate_source`."""

    __tablename__ = "order_lines"

    order_id: Mapped[str]
    number: Mapped[int] = mapped_column(Integer)
    seller: Mapped[str]
    description: Mapped[str]
    quantity: Mapped[int]
    original_amount: Mapped[int]
    original_currency: Mapped[str]
    rate: Mapped[Decimal]
    rate_day: Mapped[date | None]
    rate_source: Mapped[str | None]
    amount: Mapped[int]

    __table_args__ = (Index("order_lines_order", "order_id", "number"),)


class Share(Row):
    """A seller's share of an order. `requested` is the total of the `requests` requests to
    payouts."""

    __tablename__ = "seller_shares"

    order_id: Mapped[str]
    seller: Mapped[str]
    gross: Mapped[int]
    fee_basis_points: Mapped[int] = mapped_column(Integer)
    refunded: Mapped[int] = mapped_column(server_default="0")
    held: Mapped[int] = mapped_column(server_default="0")
    requested: Mapped[int] = mapped_column(server_default="0")
    requests: Mapped[int] = mapped_column(Integer, server_default="0")

    __table_args__ = (
        Index("seller_shares_order", "order_id"),
        Index("seller_shares_seller", "tenant", "seller", "created_at"),
    )


class Payment(Row):
    """A checkout for an order, under the checkout's id; each further charge for the same checkout
    has a row of its own. `amount` is the amount received, `decision` the decision about it."""

    __tablename__ = "payments"

    order_id: Mapped[str]
    checkout_id: Mapped[str]
    charge: Mapped[str | None]
    provider: Mapped[str]
    account: Mapped[str]
    status: Mapped[str]
    url: Mapped[str | None]
    amount: Mapped[int | None]
    currency: Mapped[str | None]
    decision: Mapped[str | None]
    completed_at: Mapped[datetime | None]

    __table_args__ = (Index("payments_order", "order_id"),)


class Reversal(Row):
    """Refunds or a dispute of a checkout's payment, as the provider reports them. `sequence` is
    that of the newest report."""

    __tablename__ = "reversals"

    order_id: Mapped[str]
    checkout_id: Mapped[str]
    kind: Mapped[str]
    status: Mapped[str | None]
    amount: Mapped[int]
    currency: Mapped[str]
    reason: Mapped[str | None]
    reported_at: Mapped[datetime]
    sequence: Mapped[int]

    __table_args__ = (
        Index("reversals_order", "order_id"),
        Index("reversals_checkout", "checkout_id"),
    )


class Refund(Row):
    """A refund from a payment. `parts` maps each seller to the amount taken from that seller's
    share; it is empty for money that never belonged to the order."""

    __tablename__ = "refunds"

    order_id: Mapped[str]
    payment_id: Mapped[str]
    checkout_id: Mapped[str]
    amount: Mapped[int]
    currency: Mapped[str]
    reason: Mapped[str]
    parts: Mapped[dict[str, int]]
    state: Mapped[str]
    # How often it was requested, and the sequence number of its newest report.
    requests: Mapped[int] = mapped_column(Integer, server_default="1")
    reports: Mapped[int] = mapped_column(server_default="0")
    created_by: Mapped[str | None]
    provider_refund_id: Mapped[str | None]
    error: Mapped[str | None]
    completed_at: Mapped[datetime | None]

    __table_args__ = (
        Index("refunds_order", "order_id"),
        Index("refunds_page", "tenant", "state", "created_at", "id"),
    )


class Terms(Base):
    """A tenant's terms for new orders, as `schemas.Terms`."""

    __tablename__ = "tenant_terms"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    terms: Mapped[dict[str, Any]]
    changed_by: Mapped[str]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Rate(Base):
    """A source's rate for a day: units of the currency per euro. Rows never change."""

    __tablename__ = "exchange_rates"

    day: Mapped[date] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)
    rate: Mapped[Decimal]
    stored_at: Mapped[datetime] = mapped_column(server_default=func.now())


def order_id(tenant: str, key: str) -> str:
    return derived_id("orders", tenant, key)


def share_id(order: str, seller: str) -> str:
    return derived_id("seller_shares", order, seller)

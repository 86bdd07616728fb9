"""API response models for orders. Amounts are in minor units, times in UTC."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field

from common.http.resources import View
from orders.domain import RefundState, State


class _View(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class OrderView(View):
    reference: str
    buyer: str
    state: State
    currency: str
    total: int
    refunded: int = Field(description="the refunded part of the accepted payment")
    held: int = Field(
        description="held back from the sellers: disputed, or refunded at the provider"
    )
    pay_by: datetime
    paid_at: datetime | None
    cancelled_at: datetime | None
    cancelled_by: str | None = Field(description="null if it was cancelled automatically")
    fulfilled_at: datetime | None
    release_at: datetime | None = Field(description="when its sellers' payouts are requested")
    released_at: datetime | None
    version: int = Field(description="the `sequence` of its last event")


class LineView(_View):
    seller: str
    description: str
    quantity: int
    original_amount: int
    original_currency: str
    rate: Decimal = Field(
        description="units of the order's currency per unit of the original currency"
    )
    rate_day: date | None
    rate_source: str | None
    amount: int


class ShareView(_View):
    """A seller's share of an order. `owed` is the final amount due to the seller, `requested` the
    amount requested from the payouts service so far."""

    seller: str
    gross: int
    refunded: int
    held: int
    fee: int
    owed: int
    requested: int


class PaymentView(View):
    order_id: str
    checkout_id: str
    charge: str | None = Field(
        description="the provider's id of a further charge for the same checkout"
    )
    provider: str
    account: str
    status: str
    url: str | None = Field(
        description="where to send the payer; null if the provider prompts the payer's phone"
    )
    amount: int | None = Field(description="the amount received")
    currency: str | None
    decision: str | None = Field(
        description="how the money was applied: `accepted` or `reopened`; `late`, `double` and "
        "`wrong` are refunded"
    )
    completed_at: datetime | None


class RefundView(View):
    order_id: str
    payment_id: str
    amount: int
    currency: str
    reason: str
    parts: dict[str, int] = Field(description="the amount taken from each seller's share")
    state: RefundState
    created_by: str | None
    provider_refund_id: str | None
    error: str | None
    completed_at: datetime | None


class ReversalView(View):
    """Refunds or a dispute of a payment of the order, as the provider reports them; refunds contain
    those that Paybus made."""

    checkout_id: str
    kind: str = Field(description="`refund` or `dispute`")
    status: str | None = Field(description="of a dispute: `inquiry`, `open`, `won` or `lost`")
    amount: int
    currency: str
    reason: str | None
    reported_at: datetime


class OrderDetail(OrderView):
    lines: list[LineView]
    shares: list[ShareView]
    payments: list[PaymentView]
    refunds: list[RefundView]
    reversals: list[ReversalView]


class Converted(BaseModel):
    """A converted amount. `rate` is units of the target currency per unit of the original. `day`
    and `source` identify the published rate: both are null for the same currency; for a fixed
    parity `day` is null and `source` is `parity`."""

    amount: int
    currency: str
    rate: Decimal
    day: date | None
    source: str | None


class RatesView(BaseModel):
    """Units of each currency per unit of `base`."""

    base: str
    day: date
    source: str
    rates: dict[str, Decimal]


class SellerReport(BaseModel):
    """Totals of a seller's orders that were paid in the requested period. Amounts are in minor
    units of `currency`: the tenant's currency at today's rates, or the orders' own on request."""

    seller: str
    currency: str
    orders: int
    gross: int
    refunded: int
    fees: int
    owed: int
    requested: int

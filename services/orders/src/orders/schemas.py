"""API request models for orders."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.clients.accounts_file import DEFAULT
from common.contracts.money import Currency
from common.http.requests import RequestModel
from common.http.return_urls import ReturnUrl
from orders.domain import LateRule

# The caller's own name for a seller, a buyer or an order.
Reference = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:@-]{1,100}$")]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
# Limit of one line: an order with the maximum number of lines still fits into the integers that
# JSON represents exactly.
Amount = Annotated[int, Field(gt=0, le=10**12, strict=True, description="minor units")]

_DAY = 24 * 3600
_YEAR = 366 * _DAY


class Terms(RequestModel):
    """A tenant's terms. An order keeps the terms that applied when it was placed."""

    currency: Currency = Field(default="EUR", description="the currency in which buyers pay")
    grace_seconds: int = Field(
        default=3 * _DAY,
        ge=1,
        le=_YEAR,
        description="an order that is unpaid for this long is cancelled",
    )
    reminder_seconds: int = Field(
        default=_DAY,
        ge=0,
        le=_YEAR,
        description="the buyer is reminded this long before the deadline; 0: never",
    )
    holding_seconds: int = Field(
        default=7 * _DAY, ge=0, le=_YEAR, description="sellers are paid this long after the payment"
    )
    fee_basis_points: int = Field(
        default=1000, ge=0, le=10_000, description="the platform's fee: 250 is 2.5 %"
    )
    late_payment: LateRule = LateRule.REFUND
    oldest_rate_days: int = Field(
        default=4, ge=0, le=31, description="the maximum age of an exchange rate"
    )


class NewLine(RequestModel):
    seller: Reference = Field(description="the reference of a recipient in the payouts service")
    description: Text
    quantity: int = Field(default=1, ge=1, le=1_000_000, strict=True)
    unit_price: Amount
    currency: Currency | None = Field(
        default=None,
        description="the price's currency; converted into the order's currency if it differs",
    )


class Buyer(RequestModel):
    reference: Reference
    email: str | None = Field(default=None, pattern=r"^[^@\s]+@[^@\s]+$", max_length=254)
    name: Text | None = None
    phone: str | None = Field(default=None, pattern=r"^\+?[0-9]{8,15}$")


class NewOrder(RequestModel):
    """An order to place. `reference` is the shop's own name for it."""

    reference: Reference
    buyer: Buyer
    lines: list[NewLine] = Field(min_length=1, max_length=500)

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if any(line.quantity * line.unit_price > 10**12 for line in self.lines):
            raise ValueError("a line's amount is more than 10^12 minor units")
        return self


class NewPayment(RequestModel):
    """The buyer's way to pay. Omitted contact data is taken from the order's buyer."""

    provider: Literal["stripe", "fapshi", "mtn-momo", "orange-money", "flutterwave"]
    account: str = Field(default=DEFAULT, pattern=r"^[a-z0-9_-]{1,64}$")
    phone: str | None = Field(default=None, pattern=r"^\+?[0-9]{8,15}$")
    return_url: ReturnUrl | None = None


class NewRefund(RequestModel):
    """A refund to request. Without `amount`, everything that is left is refunded; without `seller`,
    it is taken from all sellers' shares."""

    amount: Amount | None = None
    seller: Reference | None = None
    reason: Text


class ReasonBody(RequestModel):
    reason: Text

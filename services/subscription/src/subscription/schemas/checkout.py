"""API request models for checkouts and the entitlement policy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal, Self

from pydantic import Field, HttpUrl, model_validator

from common.clients.accounts_file import DEFAULT
from common.contracts.money import Currency, MinorUnits
from common.http.requests import RequestModel
from subscription.domain import Policy

ProviderName = Literal["stripe", "fapshi", "mtn-momo", "orange-money", "flutterwave"]


class EntitlementPolicy(RequestModel):
    """Entitlements of a tenant's customers while they do not pay. By default a past-due customer is
    entitled for thirty days; one who is `unpaid` (Stripe has given up collecting) or `paused` (a
    trial ended without a payment method) is not, until that changes. A customer on trial, one whose
    payments are not collected for now, and one whose newest payment was refunded in full or is
    disputed, is entitled."""

    past_due: bool = Field(default=True, description="whether a past-due customer is entitled")
    past_due_grace_days: int | None = Field(
        default=30,
        ge=0,
        le=3650,
        description="days of entitlement after becoming past due, at Stripe; null: as long as "
        "Stripe reports `past_due`",
    )
    unpaid: bool = Field(default=False, description="whether an unpaid customer is entitled")
    paused: bool = Field(default=False, description="whether a paused customer is entitled")
    trialing: bool = Field(default=True, description="whether a customer on trial is entitled")
    collection_paused: bool = Field(
        default=True,
        description="whether a customer is entitled while Stripe's `pause_collection` is set",
    )
    refunded: bool = Field(
        default=True,
        description="whether a customer is entitled whose newest payment was refunded in full",
    )
    disputed: bool = Field(
        default=True,
        description="whether a customer is entitled whose newest payment is disputed: the dispute "
        "is open or lost",
    )

    def as_rules(self) -> Policy:
        days = self.past_due_grace_days
        return Policy(
            past_due=self.past_due,
            past_due_grace=timedelta(days=days) if days is not None else None,
            unpaid=self.unpaid,
            paused=self.paused,
            trialing=self.trialing,
            collection_paused=self.collection_paused,
            refunded=self.refunded,
            disputed=self.disputed,
        )


class Buyer(RequestModel):
    """The customer who pays. `reference` is the caller's own name for the customer."""

    reference: str = Field(pattern=r"^[A-Za-z0-9._:@-]{1,100}$")
    email: str | None = Field(default=None, pattern=r"^[^@\s]+@[^@\s]+$", max_length=254)
    name: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"^[^\x00]+$")
    phone: str | None = Field(
        default=None,
        pattern=r"^\+?[0-9]{8,15}$",
        description="with country code (E.164); the plus sign is optional",
    )


class PlanTerms(RequestModel):
    """A plan, the interval that one payment covers, and the terms around its end.

    With Stripe, `plan_id` is a Stripe price, which has its own terms.
    """

    plan_id: str = Field(pattern=r"^[A-Za-z0-9._:-]{1,100}$")
    name: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"^[^\x00]+$")
    interval: Literal["day", "week", "month", "year"] = "month"
    grace_days: int = Field(
        default=3,
        ge=0,
        le=90,
        description="days that the subscription is past due before it expires",
    )
    reminder_days: int = Field(
        default=3,
        ge=0,
        le=90,
        description="days before the end at which `subscription.expiring` is published, but not "
        "before half of the period has passed",
    )


class NewCheckout(RequestModel):
    """A single payment: for a plan's next period or, without a plan, for something else."""

    provider: ProviderName
    account: str = Field(
        default=DEFAULT,
        pattern=r"^[a-z0-9_-]{1,64}$",
        description="an account in the accounts file",
    )
    amount: MinorUnits | None = Field(
        default=None, gt=0, description="minor units; omitted for a Stripe plan"
    )
    currency: Currency | None = None
    customer: Buyer
    plan: PlanTerms | None = None
    description: str | None = Field(default=None, max_length=150, pattern=r"^[^\x00]*$")
    return_url: HttpUrl | None = Field(
        default=None, description="where the payer's browser is sent afterwards"
    )
    purpose: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._:/-]{1,200}$",
        description="another service's name for what is paid; repeated in "
        "`checkout.status_changed`",
    )

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if (self.amount is None) != (self.currency is None):
            raise ValueError("amount and currency must be given together")
        priced_by_stripe = self.provider == "stripe" and self.plan is not None
        if priced_by_stripe == (self.amount is not None):
            raise ValueError(
                "a plan of Stripe's has its price there: leave out amount and currency"
                if priced_by_stripe
                else "amount and currency are missing"
            )
        return self


def stored(request: dict[str, Any]) -> NewCheckout:
    """Parse a stored request, ignoring fields that another version wrote."""
    return NewCheckout.model_validate(request, extra="ignore")

"""Request bodies of the API."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from common.clients.accounts_file import DEFAULT
from common.contracts.money import Currency
from common.http.requests import RequestModel
from payouts.ledger.entries import Funding
from payouts.settings import Priority

MOST_IN_A_BATCH = 10_000

# The caller's own name for a recipient.
Reference = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:@-]{1,100}$")]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
# JSON numbers are double precision: exact up to this value.
Amount = Annotated[int, Field(gt=0, le=2**53 - 1, strict=True)]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is not a time zone such as Africa/Douala") from None
    return name


class Schedule(RequestModel):
    """When the available balance is paid out automatically: at an hour of each day, on one day a
    week, or as soon as it reaches `minimum` (minor units)."""

    kind: Literal["manual", "daily", "weekly", "threshold"] = "manual"
    hour: int = Field(default=6, ge=0, le=23, description="in the time zone `zone`")
    weekday: int = Field(default=1, ge=1, le=7, description="1 is Monday (ISO 8601)")
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    minimum: int = Field(
        default=1, ge=1, strict=True, description="a lower balance is not paid out"
    )

    @property
    def expression(self) -> str:
        """Return the schedule as a cron expression; not for `manual` and `threshold`."""
        return f"0 {self.hour} * * {self.weekday % 7 if self.kind == 'weekly' else '*'}"


class NewRecipient(RequestModel):
    """A new recipient. `details` are the destination, in the fields of the provider
    (docs/guides/payouts.md)."""

    reference: Reference
    name: Text
    provider: Literal["stripe", "dwolla", "fapshi", "square"]
    account: str = Field(
        default=DEFAULT,
        pattern=r"^[a-z0-9_-]{1,64}$",
        description="an account in the payout accounts file",
    )
    currency: Currency
    details: dict[str, Any]
    schedule: Schedule = Schedule()


class RecipientChange(RequestModel):
    """A change of a recipient. Fields that are left out stay as they are."""

    name: Text | None = None
    details: dict[str, Any] | None = None
    schedule: Schedule | None = None
    blocked: bool | None = Field(default=None, description="nothing is sent to a blocked recipient")
    reason: Text


class NewPayout(RequestModel):
    recipient: Reference
    amount: Amount = Field(description="minor units, the amount that the recipient receives")
    fee: int = Field(
        default=0, ge=0, le=2**53 - 1, strict=True, description="minor units, charged in addition"
    )
    currency: Currency
    funding: Funding = Field(
        default="direct",
        description="`direct`: the payout itself creates the debt; `balance`: paid from the "
        "available balance",
    )
    priority: Priority = "direct"
    due_at: AwareDatetime | None = Field(
        default=None, description="when to send it at the earliest; null: now"
    )
    description: str | None = Field(default=None, max_length=140, pattern=r"^[^\x00]*$")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.amount + self.fee > 2**53 - 1:
            raise ValueError("amount and fee together are too large")
        return self


class NewBatch(RequestModel):
    name: Text
    payouts: list[NewPayout] = Field(min_length=1, max_length=MOST_IN_A_BATCH, fail_fast=True)


class Credit(RequestModel):
    """Money that a recipient has earned: it becomes available for payouts."""

    amount: Amount = Field(description="minor units")
    currency: Currency
    reason: Text


class ReasonBody(RequestModel):
    reason: Text


class Period(RequestModel):
    """A range of days (UTC), both included."""

    first: date
    last: date


def stored(request: dict[str, Any]) -> NewPayout:
    """Parse a stored request, possibly written by a version that has more fields."""
    return NewPayout.model_validate(request, extra="ignore")


def as_stored(request: NewPayout) -> dict[str, Any]:
    return request.model_dump(mode="json")


def moment(request: NewPayout, now: datetime) -> datetime:
    return max(now, request.due_at) if request.due_at else now

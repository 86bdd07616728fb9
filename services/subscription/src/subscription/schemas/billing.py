"""Commands on a subscription or a customer that a caller may request, and their confirmation.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from common.contracts.subscriptions import Status
from common.http.requests import RequestModel

# Stripe's ids of prices, coupons and payment methods.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,100}$")]
When = Literal["now", "period_end"]


class CommandStatus(StrEnum):
    OPEN = "open"  # a caller waits for the outcome
    ACCEPTED = "accepted"  # its outcome is not known yet: executed once, by the job if necessary
    DONE = "done"
    REFUSED = "refused"  # rejected by the provider, or superseded by a later command
    WITHDRAWN = "withdrawn"  # not done, and never automatically: the caller was informed


UNFINISHED = (CommandStatus.OPEN, CommandStatus.ACCEPTED)


class NewSubscription(RequestModel):
    kind: Literal["subscribe"] = "subscribe"
    plan_id: Name = Field(description="the provider's id of the price")
    trial_days: int = Field(default=0, ge=0, le=730)
    coupon: Name | None = None
    payment_method: Name | None = Field(default=None, description="null for the customer's default")


class ChangePlan(RequestModel):
    kind: Literal["change_plan"] = "change_plan"
    plan_id: Name
    when: When = "now"
    prorate: bool = Field(default=True, description="whether to prorate a change that is made now")


class Cancel(RequestModel):
    kind: Literal["cancel"] = "cancel"
    when: When = "period_end"


class Resume(RequestModel):
    """Undo a cancellation at the end of the period."""

    kind: Literal["resume"] = "resume"


class ApplyCoupon(RequestModel):
    kind: Literal["apply_coupon"] = "apply_coupon"
    coupon: Name


class NewSetupIntent(RequestModel):
    """Add a payment method in the customer's browser."""

    kind: Literal["setup_intent"] = "setup_intent"


class SetDefault(RequestModel):
    kind: Literal["set_default"] = "set_default"
    payment_method: Name


class Detach(RequestModel):
    kind: Literal["detach"] = "detach"
    payment_method: Name


CommandRequest = (
    NewSubscription
    | ChangePlan
    | Cancel
    | Resume
    | ApplyCoupon
    | NewSetupIntent
    | SetDefault
    | Detach
)
_STORED: TypeAdapter[CommandRequest] = TypeAdapter(
    Annotated[CommandRequest, Field(discriminator="kind")]
)


@dataclass(frozen=True)
class Attempt:
    """A stored command that is now to be executed at the provider: `id` is our reference there,
    `subject` the provider's customer or subscription; `number` (from 1) changes when a key is used
    up."""

    id: str
    subject: str
    request: CommandRequest
    number: int


# Kinds of commands that a report of the subscription confirms.
CONFIRMED = ("subscribe", "change_plan", "cancel", "resume")
# Of the kinds in one group, the last command takes precedence.
SUPERSEDING = (("change_plan", "cancel", "resume"), ("set_default",), ("apply_coupon",))


def stored(request: dict[str, Any]) -> CommandRequest:
    return _STORED.validate_python(request)


def confirmed(request: CommandRequest, *, status: Status, plan: str | None, ends: bool) -> bool:
    """Return whether the provider's report of the subscription shows the requested state. `plan` is
    the provider's id of the plan, `ends` whether its end is decided, by whatever field."""
    match request:
        case Cancel(when="now"):
            return status is Status.CANCELLED
        case Cancel():
            return ends or status is Status.CANCELLED
        case Resume():
            return not ends and status is not Status.CANCELLED
        case ChangePlan(plan_id=wanted_plan):
            return plan == wanted_plan
        case _:
            return False

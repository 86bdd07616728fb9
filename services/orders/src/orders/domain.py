"""Order states, and decisions about incoming payments. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.contracts.payments import MONEY_IS_TAKEN
from common.errors import Conflict


class State(StrEnum):
    PLACED = "placed"
    AWAITING_PAYMENT = "awaiting_payment"  # a checkout was started
    PAID = "paid"
    FULFILLED = "fulfilled"
    COMPLETED = "completed"  # fulfilled, and its sellers' earnings were released
    CANCELLED = "cancelled"
    REFUNDED = "refunded"  # in full


UNPAID = frozenset({State.PLACED, State.AWAITING_PAYMENT})
SOLD = frozenset({State.PAID, State.FULFILLED, State.COMPLETED})

_NEXT: Mapping[State, frozenset[State]] = {
    State.PLACED: frozenset({State.AWAITING_PAYMENT, State.PAID, State.CANCELLED}),
    State.AWAITING_PAYMENT: frozenset({State.PAID, State.CANCELLED}),
    State.PAID: frozenset({State.FULFILLED, State.REFUNDED}),
    State.FULFILLED: frozenset({State.COMPLETED, State.REFUNDED}),
    State.COMPLETED: frozenset({State.REFUNDED}),
    State.CANCELLED: frozenset({State.PAID}),  # a late payment reopened it
    State.REFUNDED: frozenset(),
}


def require_transition(before: State, after: State) -> None:
    """Raise `Conflict` for a transition that is not allowed."""
    if after not in _NEXT[before]:
        raise Conflict(f"an order that is {before} can't become {after}")


class LateRule(StrEnum):
    """Rule for a payment that arrives after its order was cancelled automatically, unpaid."""

    REFUND = "refund"
    REOPEN = "reopen"


class PaymentDecision(StrEnum):
    """Decision about an incoming payment."""

    ACCEPTED = "accepted"  # pays the order
    REOPENED = "reopened"  # pays and reopens the order, which was cancelled
    LATE = "late"  # the order is cancelled: refunded
    DOUBLE = "double"  # the order is already paid: refunded
    WRONG = "wrong"  # too little, or another currency: refunded


def decide_payment(
    state: State,
    *,
    total: tuple[int, str],
    came: tuple[int, str],
    late: LateRule,
    by_clock: bool,
    in_time: bool = False,
) -> tuple[PaymentDecision, int]:
    """Return the decision about a payment, and how much of it to refund. `total` and `came` are
    amounts in minor units with their currencies. `by_clock` is whether a cancelled order was
    cancelled automatically for non-payment; `in_time` is whether the payment was made before the
    deadline, although its report arrived later."""
    amount, currency = came
    if state in SOLD or state is State.REFUNDED:
        return PaymentDecision.DOUBLE, amount
    if currency != total[1] or amount < total[0]:
        return PaymentDecision.WRONG, amount
    if state is State.CANCELLED:
        if not (by_clock and (in_time or late is LateRule.REOPEN)):
            return PaymentDecision.LATE, amount
        return PaymentDecision.REOPENED, amount - total[0]
    return PaymentDecision.ACCEPTED, amount - total[0]


class RefundState(StrEnum):
    REQUESTED = "requested"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the provider rejected it: an operator has to act
    UNKNOWN = "unknown"  # no call got a response: it may have been made
    MANUAL = "manual"  # the provider has no refunds: an operator pays it back and confirms it


# The states of a refund of ours that the provider's total of refunds contains, or soon will.
AT_THE_PROVIDER = frozenset({RefundState.REQUESTED, RefundState.SUCCEEDED, RefundState.UNKNOWN})


@dataclass(frozen=True)
class Reversed:
    """The provider's report of a charge's refunds, or of a dispute with its `status`. `amount` is
    in minor units."""

    kind: str
    status: str | None
    amount: int


def held_back(reversals: Sequence[Reversed], *, ours: int, most: int) -> int:
    """Return how much of an order is held back from its sellers (minor units): what is disputed,
    and what was refunded beyond our own refunds, `ours`; at most `most`."""
    refunded = sum(each.amount for each in reversals if each.kind == "refund")
    disputed = sum(each.amount for each in reversals if each.status in MONEY_IS_TAKEN)
    return min(most, max(0, refunded - ours) + disputed)


CHECKOUT_PURPOSE = "order/"

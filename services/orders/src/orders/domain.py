"""An order's life, and what is done with money that comes for it. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from common.errors import Conflict


class State(StrEnum):
    PLACED = "placed"
    AWAITING_PAYMENT = "awaiting_payment"  # a checkout was started
    PAID = "paid"
    FULFILLED = "fulfilled"
    COMPLETED = "completed"  # fulfilled, and its sellers' payouts are requested
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
    State.CANCELLED: frozenset({State.PAID}),  # paid late, and opened again
    State.REFUNDED: frozenset(),
}


def require_transition(before: State, after: State) -> None:
    """Raises `Conflict` for a step that there is not."""
    if after not in _NEXT[before]:
        raise Conflict(f"an order that is {before} can't become {after}")


class LateRule(StrEnum):
    """What becomes of a payment that arrives after the clock has cancelled its order."""

    REFUND = "refund"
    REOPEN = "reopen"


class PaymentDecision(StrEnum):
    """Over money that came."""

    ACCEPTED = "accepted"  # it pays the order
    REOPENED = "reopened"  # it pays the order, which was cancelled
    LATE = "late"  # the order is cancelled: it goes back
    DOUBLE = "double"  # the order is paid already: it goes back
    WRONG = "wrong"  # too little, or another currency: it goes back


def decide_payment(
    state: State,
    *,
    total: tuple[int, str],
    came: tuple[int, str],
    late: LateRule,
    by_clock: bool,
    in_time: bool = False,
) -> tuple[PaymentDecision, int]:
    """What the money is taken for, and how much of it goes back. `total` and `came` are minor units
    and their currency; `by_clock` is whether a cancelled order was cancelled for not being paid,
    `in_time` whether it was paid before that all the same, and only heard of later."""
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
    FAILED = "failed"  # the provider refused it: somebody has to look
    UNKNOWN = "unknown"  # no call was answered: it may have been made
    MANUAL = "manual"  # the provider has no refunds: somebody pays it back, and confirms


CHECKOUT_PURPOSE = "order/"

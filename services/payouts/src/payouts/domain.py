"""The life of a payout. Pure: no I/O, no clock.

scheduled -> approved -> submitting -> submitted -> paid | failed | returned
                            |   ^
                            v   |
                          unknown   (from here the provider is asked before anything is sent)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from common.errors import Conflict


class State(StrEnum):
    SCHEDULED = "scheduled"  # waits for a second person's approval
    APPROVED = "approved"  # may be sent when it is due
    SUBMITTING = (
        "submitting"  # the intent to send is kept; the call is under way, or its process died
    )
    UNKNOWN = "unknown"  # the call had no answer that says what became of it
    SUBMITTED = "submitted"  # the provider has it
    PAID = "paid"
    FAILED = "failed"  # the provider says that it was not made
    RETURNED = "returned"  # the money came back
    CANCELLED = "cancelled"


class Fate(StrEnum):
    """What a provider says of one transfer."""

    ACCEPTED = "accepted"
    PAID = "paid"
    FAILED = "failed"
    RETURNED = "returned"

    @property
    def moves_money(self) -> bool:
        """Whether the recipient has the money or may still get it."""
        return self in {Fate.ACCEPTED, Fate.PAID}


class Move(StrEnum):
    """What Paybus or a person does; what a provider says is a `Fate`."""

    APPROVE = "approve"
    RECONSIDER = "reconsider"  # where it goes was changed since it was approved
    CANCEL = "cancel"
    RETRY = "retry"
    SEND = "send"
    DEFER = "defer"  # it was not taken: asked too often, or nobody was there
    REFUSE = "refuse"  # the provider understood and says no
    LOSE = "lose"  # nobody knows what became of the call
    FREE = "free"  # the provider was asked and knows nothing of it


_MOVES: Mapping[Move, Mapping[State, State]] = {
    Move.APPROVE: {State.SCHEDULED: State.APPROVED},
    Move.RECONSIDER: {State.APPROVED: State.SCHEDULED},
    Move.CANCEL: {
        State.SCHEDULED: State.CANCELLED,
        State.APPROVED: State.CANCELLED,
        State.FAILED: State.CANCELLED,
    },
    Move.RETRY: {State.FAILED: State.APPROVED, State.RETURNED: State.APPROVED},
    Move.SEND: {State.APPROVED: State.SUBMITTING},
    Move.DEFER: {State.SUBMITTING: State.APPROVED},
    Move.REFUSE: {State.SUBMITTING: State.FAILED},
    Move.LOSE: {State.SUBMITTING: State.UNKNOWN},
    Move.FREE: {State.UNKNOWN: State.APPROVED},
}

# Where the last attempt's fate, all that was ever said of it together, takes the payout.
_OPEN = frozenset({State.SUBMITTING, State.UNKNOWN, State.SUBMITTED})
# What is not sent, as far as we know.
_UNSENT = frozenset({State.SCHEDULED, State.APPROVED})
# A payout that came back may be paid by another transfer of its own: a transfer that came back is
# never paid again itself (`combined`).
_ENDED_UNPAID = frozenset({State.FAILED, State.CANCELLED, State.RETURNED})
_FATES: Mapping[Fate, tuple[frozenset[State], State]] = {
    Fate.ACCEPTED: (_OPEN | _UNSENT | _ENDED_UNPAID, State.SUBMITTED),
    Fate.PAID: (_OPEN | _UNSENT | _ENDED_UNPAID, State.PAID),
    Fate.FAILED: (_OPEN | {State.APPROVED}, State.FAILED),
    Fate.RETURNED: (_OPEN | _UNSENT | {State.FAILED, State.PAID}, State.RETURNED),
}


def after(state: State, move: Move) -> State:
    """Raises `Conflict` for a move that the state does not allow."""
    try:
        return _MOVES[move][state]
    except KeyError:
        raise Conflict(
            _REASONS.get((move, state)) or f"a payout that is {state} can't {move}"
        ) from None


_REASONS: Mapping[tuple[Move, State], str] = {
    (Move.RETRY, State.PAID): "it is paid: trying it again would pay twice",
    (Move.RETRY, State.UNKNOWN): "its outcome is unknown: the provider is being asked, and it is "
    "sent again by itself when the provider knows nothing of it",
    (
        Move.CANCEL,
        State.UNKNOWN,
    ): "its outcome is unknown: hold it, and cancel it when the provider was asked",
    (Move.CANCEL, State.SUBMITTING): "it is being sent",
    (Move.CANCEL, State.SUBMITTED): "the provider has it already",
    (Move.CANCEL, State.PAID): "it is paid",
    (Move.APPROVE, State.APPROVED): "it is approved already",
}


def holdable(state: State) -> bool:
    """What can be held was not handed over yet; of the unknown, that it is not sent again."""
    return state in {State.SCHEDULED, State.APPROVED, State.FAILED, State.UNKNOWN}


def combined(known: Fate | None, told: Fate) -> Fate:
    """All that was said of one transfer, in whatever order it came: a payment that also failed came
    back."""
    told_before = known or Fate.ACCEPTED
    if {told_before, told} == {Fate.PAID, Fate.FAILED}:
        return Fate.RETURNED
    return max(told_before, told, key=list(Fate).index)


def now_known(known: Fate | None, told: Fate) -> Fate:
    """The same, when the provider was asked, and so says what is so now: what is paid now is paid,
    also when a failure was heard of before."""
    if told is Fate.PAID and known in {Fate.FAILED, Fate.ACCEPTED}:
        return told
    return combined(known, told)


def after_fate(state: State, fate: Fate) -> State:
    """Where the fate of its last attempt takes a payout; the same state when it says no news.

    The provider is believed whatever we thought: a payout that was cancelled and is paid, is paid.
    """
    from_, to = _FATES[fate]
    return to if state in from_ else state


def after_other(state: State, fate: Fate) -> State:
    """The same for a payout whose own transfer moves no money any more, while another one of its
    transfers, of this fate, does."""
    if state is State.PAID and fate is Fate.ACCEPTED:
        return State.SUBMITTED
    return after_fate(state, fate)


class Step(StrEnum):
    NOTHING = "nothing"
    LOOK = "look"  # ask the provider
    SEND = "send"


def next_step(
    state: State,
    *,
    attempts: int,
    held: bool,
    stopped: bool,
    due: bool,
    under_way: bool,
    asked_for: bool = False,
) -> Step:
    """What to do about a payout now. `attempts` is how often it was sent, `under_way` whether a
    process may still be waiting for the answer, `asked_for` whether somebody says that it changed.

    Only what was never sent is sent without asking.
    """
    if state is State.SUBMITTING:
        return Step.NOTHING if under_way else Step.LOOK
    if asked_for and attempts:
        return Step.LOOK
    if state in {State.UNKNOWN, State.SUBMITTED}:
        return Step.LOOK
    if state is State.APPROVED and due and not held and not stopped:
        return Step.LOOK if attempts else Step.SEND
    return Step.NOTHING


@dataclass(frozen=True)
class Found:
    """A transfer that the provider lists under our reference. `amount` is in minor units, and so is
    `amount_returned`, which came back of one that is paid; `destination` is the provider's name of
    where it went, if it says so."""

    transfer_id: str
    fate: Fate
    amount: int
    currency: str
    destination: str | None = None
    amount_returned: int = 0


@dataclass(frozen=True)
class Sent:
    """An attempt of ours. Without an answer its `transfer_id` is not known."""

    number: int
    transfer_id: str | None


def judge(attempts: list[Sent], found: list[Found]) -> Found | None:
    """Which of the transfers that a look-up found is the payout's own, if any. One that moves money
    is, whichever attempt made it; one that does not belongs to the attempt that it is known by."""
    moving = [each for each in found if each.fate.moves_money]
    if moving:
        return next((each for each in moving if each.fate is Fate.PAID), moving[0])
    last = attempts[-1] if attempts else None
    earlier = {each.transfer_id for each in attempts[:-1]}
    mine = [
        each
        for each in found
        if each.transfer_id not in earlier
        and (last is None or last.transfer_id in {None, each.transfer_id})
    ]
    return mine[-1] if mine else None


# Automatic attempts after a failure; then a person decides.
MOST_FAILURES = 5
_RETRY_HOURS = (1, 2, 4, 8)


def retry_after(failures: int) -> timedelta | None:
    """How long after its failure number `failures` (from 1) it is tried again by itself."""
    if failures >= MOST_FAILURES:
        return None
    return timedelta(hours=_RETRY_HOURS[failures - 1])


def look_after(looks: int, first: timedelta, longest: timedelta) -> timedelta:
    """The wait before look number `looks` (from 0): twice as long each time."""
    wait = first * (1 << min(looks, 16))
    return min(longest, wait)

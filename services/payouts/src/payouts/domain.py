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


class TransferStatus(StrEnum):
    """What a provider says of one transfer."""

    ACCEPTED = "accepted"
    PAID = "paid"
    FAILED = "failed"
    RETURNED = "returned"

    @property
    def moves_money(self) -> bool:
        """Whether the recipient has the money or may still get it."""
        return self in {TransferStatus.ACCEPTED, TransferStatus.PAID}


class Transition(StrEnum):
    """What Paybus or a person does; what a provider says is a `TransferStatus`."""

    APPROVE = "approve"
    RECONSIDER = "reconsider"  # where it goes was changed since it was approved
    CANCEL = "cancel"
    RETRY = "retry"
    SEND = "send"
    DEFER = "defer"  # it was not taken: asked too often, or nobody was there
    REFUSE = "refuse"  # the provider understood and says no
    LOSE = "lose"  # nobody knows what became of the call
    FREE = "free"  # the provider was asked and knows nothing of it


_MOVES: Mapping[Transition, Mapping[State, State]] = {
    Transition.APPROVE: {State.SCHEDULED: State.APPROVED},
    Transition.RECONSIDER: {State.APPROVED: State.SCHEDULED},
    Transition.CANCEL: {
        State.SCHEDULED: State.CANCELLED,
        State.APPROVED: State.CANCELLED,
        State.FAILED: State.CANCELLED,
    },
    Transition.RETRY: {State.FAILED: State.APPROVED, State.RETURNED: State.APPROVED},
    Transition.SEND: {State.APPROVED: State.SUBMITTING},
    Transition.DEFER: {State.SUBMITTING: State.APPROVED},
    Transition.REFUSE: {State.SUBMITTING: State.FAILED},
    Transition.LOSE: {State.SUBMITTING: State.UNKNOWN},
    Transition.FREE: {State.UNKNOWN: State.APPROVED},
}

# Where the status of the last attempt's transfer, merged from all reports, takes the payout.
_OPEN = frozenset({State.SUBMITTING, State.UNKNOWN, State.SUBMITTED})
# What is not sent, as far as we know.
_UNSENT = frozenset({State.SCHEDULED, State.APPROVED})
# A payout that came back may be paid by another transfer of its own: a transfer that came back is
# never paid again itself (`merge_status`).
_ENDED_UNPAID = frozenset({State.FAILED, State.CANCELLED, State.RETURNED})
_FATES: Mapping[TransferStatus, tuple[frozenset[State], State]] = {
    TransferStatus.ACCEPTED: (_OPEN | _UNSENT | _ENDED_UNPAID, State.SUBMITTED),
    TransferStatus.PAID: (_OPEN | _UNSENT | _ENDED_UNPAID, State.PAID),
    TransferStatus.FAILED: (_OPEN | {State.APPROVED}, State.FAILED),
    TransferStatus.RETURNED: (_OPEN | _UNSENT | {State.FAILED, State.PAID}, State.RETURNED),
}


def transition(state: State, move: Transition) -> State:
    """Raises `Conflict` for a move that the state does not allow."""
    try:
        return _MOVES[move][state]
    except KeyError:
        raise Conflict(
            _REASONS.get((move, state)) or f"a payout that is {state} can't {move}"
        ) from None


_REASONS: Mapping[tuple[Transition, State], str] = {
    (Transition.RETRY, State.PAID): "it is paid: trying it again would pay twice",
    (
        Transition.RETRY,
        State.UNKNOWN,
    ): "its outcome is unknown: the provider is being asked, and it is "
    "sent again by itself when the provider knows nothing of it",
    (
        Transition.CANCEL,
        State.UNKNOWN,
    ): "its outcome is unknown: hold it, and cancel it when the provider was asked",
    (Transition.CANCEL, State.SUBMITTING): "it is being sent",
    (Transition.CANCEL, State.SUBMITTED): "the provider has it already",
    (Transition.CANCEL, State.PAID): "it is paid",
    (Transition.APPROVE, State.APPROVED): "it is approved already",
}


def can_hold(state: State) -> bool:
    """What can be held was not handed over yet; of the unknown, that it is not sent again."""
    return state in {State.SCHEDULED, State.APPROVED, State.FAILED, State.UNKNOWN}


def merge_status(known: TransferStatus | None, told: TransferStatus) -> TransferStatus:
    """All that was said of one transfer, in whatever order it came: a payment that also failed came
    back."""
    told_before = known or TransferStatus.ACCEPTED
    if {told_before, told} == {TransferStatus.PAID, TransferStatus.FAILED}:
        return TransferStatus.RETURNED
    return max(told_before, told, key=list(TransferStatus).index)


def merge_queried_status(known: TransferStatus | None, told: TransferStatus) -> TransferStatus:
    """The same, when the provider was asked, and so says what is so now: what is paid now is paid,
    also when a failure was heard of before."""
    if told is TransferStatus.PAID and known in {TransferStatus.FAILED, TransferStatus.ACCEPTED}:
        return told
    return merge_status(known, told)


def status_after(state: State, transfer_status: TransferStatus) -> State:
    """The state to which its last attempt's transfer takes a payout; the same one if it is no news.

    The provider is believed whatever we thought: a payout that was cancelled and is paid, is paid.
    """
    from_, to = _FATES[transfer_status]
    return to if state in from_ else state


def after_other(state: State, transfer_status: TransferStatus) -> State:
    """The same for a payout whose own transfer moves no money any more, while another one of its
    transfers, with this status, does."""
    if state is State.PAID and transfer_status is TransferStatus.ACCEPTED:
        return State.SUBMITTED
    return status_after(state, transfer_status)


class NextAction(StrEnum):
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
) -> NextAction:
    """What to do about a payout now. `attempts` is how often it was sent, `under_way` whether a
    process may still be waiting for the answer, `asked_for` whether somebody says that it changed.

    Only what was never sent is sent without asking.
    """
    if state is State.SUBMITTING:
        return NextAction.NOTHING if under_way else NextAction.LOOK
    if asked_for and attempts:
        return NextAction.LOOK
    if state in {State.UNKNOWN, State.SUBMITTED}:
        return NextAction.LOOK
    if state is State.APPROVED and due and not held and not stopped:
        return NextAction.LOOK if attempts else NextAction.SEND
    return NextAction.NOTHING


@dataclass(frozen=True)
class ProviderTransfer:
    """A transfer that the provider lists under our reference. `amount` is in minor units, and so is
    `amount_returned`, which came back of one that is paid; `destination` is the provider's name of
    where it went, if it says so."""

    transfer_id: str
    transfer_status: TransferStatus
    amount: int
    currency: str
    destination: str | None = None
    amount_returned: int = 0


@dataclass(frozen=True)
class AttemptRef:
    """An attempt of ours. Without an answer its `transfer_id` is not known."""

    number: int
    transfer_id: str | None


def match_transfers(
    attempts: list[AttemptRef], found: list[ProviderTransfer]
) -> ProviderTransfer | None:
    """Which of the transfers that a look-up found is the payout's own, if any. One that moves money
    is, whichever attempt made it; one that does not belongs to the attempt that it is known by."""
    moving = [each for each in found if each.transfer_status.moves_money]
    if moving:
        return next(
            (each for each in moving if each.transfer_status is TransferStatus.PAID), moving[0]
        )
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


def status_check_delay(status_checks: int, first: timedelta, longest: timedelta) -> timedelta:
    """The wait before status check number `status_checks` (from 0): twice as long each time."""
    wait = first * (1 << min(status_checks, 16))
    return min(longest, wait)

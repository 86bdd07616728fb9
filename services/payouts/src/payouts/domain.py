"""State machine of a payout. Pure: no I/O, no clock.

scheduled -> approved -> submitting -> submitted -> paid | failed | returned
                ^           |  |
                |           v  +-> failed, or approved if deferred
                +------- unknown   (from here the provider is queried before anything is sent)
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
        "submitting"  # the intent to send is stored; the call is under way, or its process died
    )
    UNKNOWN = "unknown"  # the response is missing or does not state the outcome
    SUBMITTED = "submitted"  # the provider has it
    PAID = "paid"
    FAILED = "failed"  # the provider reports that it was not made
    RETURNED = "returned"  # the money was returned
    CANCELLED = "cancelled"


class TransferStatus(StrEnum):
    """A provider's status of one transfer."""

    ACCEPTED = "accepted"
    PAID = "paid"
    FAILED = "failed"
    RETURNED = "returned"

    @property
    def moves_money(self) -> bool:
        """Return whether the recipient has the money or may still receive it."""
        return self in {TransferStatus.ACCEPTED, TransferStatus.PAID}


class Transition(StrEnum):
    """An action of Paybus or of a user; a provider's report is a `TransferStatus`."""

    APPROVE = "approve"
    RECONSIDER = "reconsider"  # its destination was changed after the approval
    CANCEL = "cancel"
    RETRY = "retry"
    SEND = "send"
    DEFER = "defer"  # not accepted: rate limited, circuit open, or credentials refused
    REFUSE = "refuse"  # the provider understood and refused
    LOSE = "lose"  # the outcome of the call is unknown
    FREE = "free"  # the provider was queried and does not know it


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

# State of the payout after the status of its last attempt's transfer, merged from all reports.
_OPEN = frozenset({State.SUBMITTING, State.UNKNOWN, State.SUBMITTED})
# Not sent, as far as the database knows.
_UNSENT = frozenset({State.SCHEDULED, State.APPROVED})
# A returned payout may be paid by another transfer of its own: a transfer that came back is never
# paid again itself (`merge_status`).
_ENDED_UNPAID = frozenset({State.FAILED, State.CANCELLED, State.RETURNED})
_FATES: Mapping[TransferStatus, tuple[frozenset[State], State]] = {
    TransferStatus.ACCEPTED: (_OPEN | _UNSENT | _ENDED_UNPAID, State.SUBMITTED),
    TransferStatus.PAID: (_OPEN | _UNSENT | _ENDED_UNPAID, State.PAID),
    TransferStatus.FAILED: (_OPEN | {State.APPROVED}, State.FAILED),
    TransferStatus.RETURNED: (_OPEN | _UNSENT | {State.FAILED, State.PAID}, State.RETURNED),
}


def transition(state: State, move: Transition) -> State:
    """Return the state after the move. Raises `Conflict` for a move that the state does not
    allow."""
    try:
        return _MOVES[move][state]
    except KeyError:
        raise Conflict(
            _REASONS.get((move, state)) or f"a payout that is {state} can't {move}"
        ) from None


_REASONS: Mapping[tuple[Transition, State], str] = {
    (Transition.RETRY, State.PAID): "it is paid: a retry would pay twice",
    (
        Transition.RETRY,
        State.UNKNOWN,
    ): "its outcome is unknown: the provider is being asked, and it is "
    "sent again by itself when the provider knows nothing of it",
    (
        Transition.CANCEL,
        State.UNKNOWN,
    ): "its outcome is unknown: hold it, and cancel it after the status check",
    (Transition.CANCEL, State.SUBMITTING): "it is being sent",
    (Transition.CANCEL, State.SUBMITTED): "the provider has it already",
    (Transition.CANCEL, State.PAID): "it is paid",
    (Transition.APPROVE, State.APPROVED): "it is already approved",
}


def can_hold(state: State) -> bool:
    """Return whether the payout can be held: while the provider does not have it. If its outcome is
    unknown, a hold keeps it from being sent again."""
    return state in {State.SCHEDULED, State.APPROVED, State.FAILED, State.UNKNOWN}


def merge_status(known: TransferStatus | None, reported: TransferStatus) -> TransferStatus:
    """Merge a report into the known status of a transfer, whatever the order of the reports: a
    transfer reported both as paid and as failed is returned."""
    before = known or TransferStatus.ACCEPTED
    if {before, reported} == {TransferStatus.PAID, TransferStatus.FAILED}:
        return TransferStatus.RETURNED
    return max(before, reported, key=list(TransferStatus).index)


def merge_queried_status(known: TransferStatus | None, reported: TransferStatus) -> TransferStatus:
    """Merge the result of a query. A query gives the current status: a transfer that is paid now is
    paid, even if a failure was reported before."""
    if reported is TransferStatus.PAID and known in {
        TransferStatus.FAILED,
        TransferStatus.ACCEPTED,
    }:
        return reported
    return merge_status(known, reported)


def status_after(state: State, transfer_status: TransferStatus) -> State:
    """Return the payout's state after a status of its transfer; the same state if nothing changes.

    The provider's status overrides ours: a cancelled payout that was paid is paid.
    """
    from_, to = _FATES[transfer_status]
    return to if state in from_ else state


def after_other(state: State, transfer_status: TransferStatus) -> State:
    """Return the payout's state when its own transfer no longer moves money, but another of its
    transfers, with this status, does."""
    if state is State.PAID and transfer_status is TransferStatus.ACCEPTED:
        return State.SUBMITTED
    return status_after(state, transfer_status)


class NextAction(StrEnum):
    NOTHING = "nothing"
    LOOK = "look"  # query the provider
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
    """Return what to do about a payout now. `attempts` is how often it was sent, `under_way`
    whether a process may still be waiting for the response, `asked_for` whether a status check was
    requested because of a report of a change.

    Only a payout that was never sent is sent without a status check.
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
    `amount_returned`, the part of a paid transfer that came back. `destination` is the provider's
    identifier of where it went, if the provider reports it."""

    transfer_id: str
    transfer_status: TransferStatus
    amount: int
    currency: str
    destination: str | None = None
    amount_returned: int = 0


@dataclass(frozen=True)
class AttemptRef:
    """An attempt of ours. `transfer_id` is None if it had no response."""

    number: int
    transfer_id: str | None


def match_transfers(
    attempts: list[AttemptRef], found: list[ProviderTransfer]
) -> ProviderTransfer | None:
    """Return the payout's own transfer among those that a status check found, if any: one that
    moves money, whichever attempt made it, a paid one first; otherwise one that the last attempt
    made or may have made."""
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


# After this many failures there is no automatic retry: an operator decides.
MOST_FAILURES = 5
_RETRY_HOURS = (1, 2, 4, 8)


def retry_after(failures: int) -> timedelta | None:
    """Return the delay before the automatic retry after failure number `failures` (from 1); None if
    there is none."""
    if failures >= MOST_FAILURES:
        return None
    return timedelta(hours=_RETRY_HOURS[failures - 1])


def status_check_delay(status_checks: int, first: timedelta, longest: timedelta) -> timedelta:
    """Return the delay before status check number `status_checks` (from 0): it doubles each time,
    up to `longest`."""
    wait = first * (1 << min(status_checks, 16))
    return min(longest, wait)

"""Effects of a response, a status check or a webhook on a payout's rows. No I/O: the caller locks
the rows before, and the unit of work writes them when it is flushed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from common.contracts.event import Event
from common.observability.logging import get_logger
from payouts import domain, metrics
from payouts.domain import ProviderTransfer, State, TransferStatus
from payouts.ledger import discrepancies
from payouts.ledger.audit_log import PAYBUS, Actor
from payouts.ledger.unit_of_work import PayoutUnitOfWork
from payouts.models import Attempt, Payout, Transfer
from payouts.providers.base import last_four
from payouts.providers.registry import READ_ONLY

log = get_logger(__name__)

# Submitted payouts are polled because a webhook may never arrive.
_LONGEST_POLL = timedelta(hours=6)


@dataclass(frozen=True)
class StatusCheckDelays:
    """Delays of status checks: `first_look` after an unknown outcome, `first_poll` after a
    submission."""

    first_look: timedelta = timedelta(seconds=5)
    longest_look: timedelta = timedelta(hours=1)
    first_poll: timedelta = timedelta(minutes=10)


@dataclass
class PayoutHistory:
    """A payout with all its attempts, the oldest first, and every transfer known to be its own."""

    row: Payout
    attempts: list[Attempt] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)

    @property
    def last(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    def attempt_of(self, transfer_id: str) -> Attempt | None:
        """Return the attempt that made the transfer; otherwise the newest attempt without a known
        transfer."""
        newest_first = self.attempts[::-1]
        known = next((each for each in newest_first if each.transfer_id == transfer_id), None)
        return known or next((each for each in newest_first if each.transfer_id is None), None)

    def adopt(self, transfer: Transfer) -> None:
        """Record the transfer as this payout's."""
        transfer.payout_id = self.row.id
        if transfer not in self.transfers:
            self.transfers.append(transfer)

    def standing(self, but: Transfer) -> Transfer | None:
        """Return another transfer of the payout that moves money, a paid one before an accepted
        one."""
        moving = [
            each
            for each in self.transfers
            if each is not but
            and each.transfer_status is not None
            and TransferStatus(each.transfer_status).moves_money
        ]
        return max(
            moving, key=lambda each: each.transfer_status == TransferStatus.PAID, default=None
        )


def apply_status(
    books: PayoutUnitOfWork,
    file: PayoutHistory,
    transfer: Transfer,
    transfer_status: TransferStatus,
    *,
    times: StatusCheckDelays,
    asked: bool = False,
    actor: Actor = PAYBUS,
    reason: str | None = None,
    cause: Event[Any] | None = None,
    amount_returned: int = 0,
) -> None:
    """Record a transfer's status that the provider reports, and move the payout. `asked` is whether
    the status is the result of a query made just now, `amount_returned` how much of a paid payout
    came back (minor units, in total).

    Of several transfers of a payout, those that move money count: a transfer that comes back
    returns the payout only if no other one moves money.
    """
    _follow(
        books,
        file,
        transfer,
        transfer_status,
        times=times,
        asked=asked,
        actor=actor,
        reason=reason,
        cause=cause,
    )
    row = file.row
    is_what_pays = row.state == State.PAID and row.transfer_id == transfer.transfer_id
    if is_what_pays and amount_returned > row.amount_returned:
        books.return_part(row, amount_returned, actor)


def _follow(
    books: PayoutUnitOfWork,
    file: PayoutHistory,
    transfer: Transfer,
    transfer_status: TransferStatus,
    *,
    times: StatusCheckDelays,
    asked: bool,
    actor: Actor,
    reason: str | None,
    cause: Event[Any] | None,
) -> None:
    row = file.row
    news = _learn(file, transfer, transfer_status, asked=asked)
    if (
        news
        and TransferStatus(transfer.transfer_status or "").moves_money
        and file.standing(transfer) is not None
    ):
        record_duplicate(books, row, transfer.transfer_id)
    followed = transfer_to_follow(file, transfer, news=news)
    if followed is None:
        return
    transfer, to = followed
    if to is State(row.state):
        if row.transfer_id != transfer.transfer_id:
            books.pay_by_other(row, transfer.transfer_id, actor, f"told {transfer_status}")
        return
    row.transfer_id = transfer.transfer_id
    row.status_checks = 0
    publish = True
    match to:
        case State.SUBMITTED:
            row.submitted_at = books.now
            row.paid_at = None
            row.next_action_at = books.now + times.first_poll
            row.error = None
        case State.PAID:
            row.submitted_at = row.submitted_at or books.now
            row.paid_at = books.now
            row.next_action_at = None
            row.error = None
        case State.FAILED:
            publish = record_failure(books, row, reason or "the provider reports that it failed")
        case _:
            row.next_action_at = None
            row.error = reason or "the money was returned"
    books.transition(
        row,
        to,
        action=f"told {transfer_status}",
        actor=actor,
        reason=reason,
        cause=cause,
        publish=publish,
    )


def _learn(
    file: PayoutHistory, transfer: Transfer, transfer_status: TransferStatus, *, asked: bool
) -> bool:
    """Store the reported status of the transfer; return whether it is new."""
    known = transfer.transfer_status
    joined = domain.merge_queried_status if asked else domain.merge_status
    transfer.transfer_status = joined(TransferStatus(known) if known else None, transfer_status)
    file.adopt(transfer)
    attempt = file.attempt_of(transfer.transfer_id)
    if attempt is not None:
        known = attempt.transfer_status
        attempt.transfer_id = transfer.transfer_id
        attempt.transfer_status = transfer.transfer_status
    return known != transfer.transfer_status


def transfer_to_follow(
    file: PayoutHistory, transfer: Transfer, *, news: bool
) -> tuple[Transfer, State] | None:
    """Return the transfer that the payout follows after a report about this one, and the state it
    leads to; None when the report does not concern the payout's current state."""
    row, transfer_status, other = (
        file.row,
        TransferStatus(transfer.transfer_status or ""),
        file.standing(transfer),
    )
    state = State(row.state)
    if transfer_status.moves_money:
        if other is not None and (
            transfer_status is not TransferStatus.PAID
            or other.transfer_status == TransferStatus.PAID
        ):
            return None
        return transfer, domain.status_after(state, transfer_status)
    current = state in {State.SUBMITTED, State.PAID} and row.transfer_id == transfer.transfer_id
    if not news and not current:  # an operator may have retried the payout since
        return None
    if other is not None:
        return other, domain.after_other(state, TransferStatus(other.transfer_status or ""))
    last = file.last is not None and file.last.transfer_id == transfer.transfer_id
    unanswered = state in {State.SUBMITTING, State.UNKNOWN} and (
        file.last is not None and file.last.transfer_id is None
    )
    if not last and (unanswered or row.transfer_id != transfer.transfer_id):
        return None  # from an earlier attempt; another one was started since
    to = domain.status_after(state, transfer_status)
    return None if to is state else (transfer, to)


def record_failure(books: PayoutUnitOfWork, row: Payout, error: str) -> bool:
    """Record the failure of a payout that is about to become failed, and schedule its automatic
    retry. Return whether there is none."""
    row.failures += 1
    row.error = error
    wait = None if row.provider in READ_ONLY else domain.retry_after(row.failures)
    row.next_action_at = books.now + wait if wait is not None else None
    return wait is None


def schedule_status_check(
    books: PayoutUnitOfWork,
    row: Payout,
    times: StatusCheckDelays,
    error: str | None,
    *,
    answered: bool = True,
) -> None:
    """Schedule the next status check. `answered` is whether the provider responded to this one."""
    submitted = row.state == State.SUBMITTED
    first, longest = (
        (times.first_poll, _LONGEST_POLL) if submitted else (times.first_look, times.longest_look)
    )
    if submitted and not answered:
        # The payout may have been paid for long; the circuit breaker spares the provider.
        row.next_action_at, row.error = books.now + first, error
        return
    row.next_action_at = books.now + domain.status_check_delay(row.status_checks, first, longest)
    row.status_checks += 1
    if error is not None:
        row.error = error


def compare_amounts(
    books: PayoutUnitOfWork,
    row: Payout,
    found: ProviderTransfer,
    destinations: Collection[str] | None = None,
) -> None:
    """Record a discrepancy if the provider's transfer differs from the payout. `destinations` are
    the provider's identifiers of where the payout's attempts sent it."""
    ours, theirs = f"{row.amount} {row.currency}", f"{found.amount} {found.currency}"
    if ours != theirs:
        record_discrepancy(books, row, "amount", found.transfer_id, ours, theirs)
    if destinations and found.destination is not None and found.destination not in destinations:
        # Only their last characters: every user who may view payouts sees discrepancies.
        ours, theirs = (last_four(each) for each in (max(destinations), found.destination))
        record_discrepancy(books, row, discrepancies.DESTINATION, found.transfer_id, ours, theirs)


def part_returned(row: Payout, found: ProviderTransfer) -> int:
    """Return how much of the payout came back, in total (minor units). An excess of the transfer
    over the payout that was recovered does not count: it is owed to no recipient."""
    if not found.amount_returned:
        return 0
    return max(0, row.amount - (found.amount - found.amount_returned))


def remember(
    books: PayoutUnitOfWork, file: PayoutHistory, found: ProviderTransfer, *, details: str
) -> None:
    """Record an attempt that the database has forgotten, sent to the (encrypted) `details`. The
    payout takes the amount of the transfer: a schedule pays what is available, which was a
    different amount then."""
    row = file.row
    if found.transfer_status.moves_money and found.currency == row.currency:
        if row.funding == "direct":  # the caller decides its amount
            compare_amounts(books, row, found)
        books.correct(row, found.amount)
    row.attempts = 1
    attempt = Attempt(
        payout_id=row.id,
        number=1,
        idempotency_key=f"{row.id}.1",
        started_at=books.now,
        deadline=books.now,
        finished_at=books.now,
        outcome="found",
        key_consumed=True,
        details=details,
    )
    books.session.add(attempt)
    file.attempts.append(attempt)


def record_discrepancy(
    books: PayoutUnitOfWork, row: Payout, kind: str, transfer_id: str | None, ours: str, theirs: str
) -> None:
    """Log and record that the provider and the database differ."""
    log.error(
        "payout_discrepancy_found",
        payout=row.id,
        kind=kind,
        transfer=transfer_id,
        ours=ours,
        theirs=theirs,
    )
    day = books.now.date()
    books.add_discrepancy(discrepancies.of_payout(row, day, kind, transfer_id, ours, theirs))


def record_duplicate(books: PayoutUnitOfWork, row: Payout, transfer_id: str) -> None:
    """Record that more than one transfer of the payout moves money."""
    metrics.doubled.labels(row.provider).inc()
    record_discrepancy(books, row, discrepancies.DOUBLED, transfer_id, "once", "once more")


def attempt_refs(attempts: Sequence[Attempt]) -> list[domain.AttemptRef]:
    return [domain.AttemptRef(each.number, each.transfer_id) for each in attempts]

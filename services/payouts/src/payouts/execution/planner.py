"""Decisions about a payout, before and after each provider call, made in a transaction with the
rows locked. `executor.py` makes the calls in between."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from common.clients.json_api import excerpt
from common.errors import (
    NotAuthorized,
    PaybusError,
    ProviderRejected,
    ProviderTimeout,
    RateLimited,
    Upstream,
)
from common.observability.logging import get_logger
from common.observability.redaction import Redactor
from payouts import domain
from payouts.domain import NextAction, ProviderTransfer, State, Transition
from payouts.execution import status_updates
from payouts.execution.status_updates import PayoutHistory, StatusCheckDelays
from payouts.ledger.unit_of_work import PayoutUnitOfWork
from payouts.models import Attempt, Payout, Recipient, TenantControl, Transfer
from payouts.providers.base import PayoutRequest
from payouts.providers.recipient_details import RecipientDetailsCipher
from payouts.providers.registry import ProviderAccount
from payouts.repository import AccountKey, TransferKey

log = get_logger(__name__)

# An older intent is not acted upon. So the call, which is bounded, has ended when another process
# may check the status: a process that was suspended in between must not send later.
FRESH = timedelta(seconds=5)
_NOT_AUTHORIZED_SECONDS = 300.0
_BLOCKED = timedelta(hours=1)
# How far back a restored database may have lost payouts; status checks go no further back.
FORGOTTEN = timedelta(days=90)
_CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True)
class Start:
    """Decide what to do about the payout; `ask` requests a status check in any case."""

    payout_id: str
    ask: bool = False


@dataclass(frozen=True)
class CheckStatus:
    """Query the provider. `version` is the payout's: a different one afterwards shows a concurrent
    change."""

    order: PayoutRequest
    version: int
    since: datetime


@dataclass(frozen=True)
class StatusChecked:
    payout_id: str
    version: int
    found: Sequence[ProviderTransfer] | Exception


def elapsed() -> float:
    """Return seconds since the machine was booted, including time during which it was suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class SendPayout:
    """Call the provider: the intent is committed. `before` is the latest time for the call, on the
    clock of `elapsed`."""

    order: PayoutRequest
    number: int
    key: str
    before: float


@dataclass(frozen=True)
class PayoutSent:
    payout_id: str
    number: int
    answer: ProviderTransfer | Exception


@dataclass(frozen=True)
class Defer:
    payout_id: str
    seconds: float
    error: str


PlannerInput = Start | StatusChecked | PayoutSent | Defer
PlannerAction = CheckStatus | SendPayout | None


@dataclass(frozen=True)
class PlannerConfig:
    """Configuration of the planner. `timeout` bounds each provider call."""

    details: RecipientDetailsCipher
    timeout: timedelta
    times: StatusCheckDelays
    redact: Redactor

    def text(self, error: Exception) -> str:
        return excerpt(str(error), self.redact)


class PayoutPlanner:
    """Planner for the payouts of one transaction, one after the other."""

    account: ProviderAccount
    recipient: Recipient

    def __init__(
        self,
        rules: PlannerConfig,
        books: PayoutUnitOfWork,
        controls: Mapping[str, TenantControl],
        unreconciled: Collection[AccountKey],
        before: float,
    ) -> None:
        """`unreconciled` are the accounts whose payouts a restored database may have forgotten and
        that are not reconciled yet: nothing is sent there."""
        self._unreconciled = unreconciled
        self._rules = rules
        self._times = rules.times
        self._timeout = rules.timeout
        self._books = books
        self._now = books.now
        self._controls = controls
        self._before = before

    def start(self, file: PayoutHistory, *, ask: bool) -> PlannerAction:
        row, last = file.row, file.last
        if self._is_void(row):
            self._move(
                row, Transition.RECONSIDER, "its destination was changed since it was approved"
            )
            row.approved_by = row.approved_at = row.next_action_at = None
            if not (ask and row.attempts):
                return None
            # A report says that an earlier attempt may have paid: check that first.
        step = self._step(file, ask=ask)
        if step is NextAction.SEND:
            return self._intend(file)
        if step is NextAction.LOOK:
            if row.state == State.SUBMITTING:
                self._lose(file, "the process that sent it died", key_consumed=False)
            if row.state == State.UNKNOWN or self._waits(row):
                row.next_action_at = self._now + self._timeout + FRESH  # in case we die too
            sealed = last.details if last is not None else self.recipient.details
            order = replace(self._order(row, sealed), destinations=self._destinations(file))
            return CheckStatus(order, row.version, self._first_sent(file) - _CLOCKS_DIFFER)
        if row.state == State.APPROVED:
            self._wait(row)
        elif row.state == State.SUBMITTING and last is not None:
            row.next_action_at = last.deadline  # the sending process may die
        return None

    def _first_sent(self, file: PayoutHistory) -> datetime:
        """Return a time (UTC) before which no transfer of the payout was made."""
        first = file.attempts[0].started_at if file.attempts else self._now
        known = file.attempts and not self._forgetful(file.row)
        return first if known else min(first, self._now - FORGOTTEN)

    def on_status_checked(
        self, file: PayoutHistory, item: StatusChecked, transfers: Mapping[TransferKey, Transfer]
    ) -> PlannerAction | PaybusError:
        row = file.row
        if row.version != item.version:  # changed meanwhile, perhaps not to the newest status
            if not self._waits(row):
                self._books.enqueue(row, ask=True)
            return None
        if isinstance(item.found, Exception):
            error = self._rules.text(item.found)
            if not self._waits(row):  # no job repeats it: the caller retries
                return Upstream(f"the status check of payout {row.id} failed: {error}")
            status_updates.schedule_status_check(
                self._books, row, self._times, f"look-up: {error}", answered=False
            )
            return None
        before = row.version
        moves = self._apply_found(file, item.found, transfers)
        if moves or row.version != before:
            if row.version == before and row.state == State.SUBMITTED:
                status_updates.schedule_status_check(self._books, row, self._times, None)
            return None
        return self._free(file)

    def _apply_found(
        self,
        file: PayoutHistory,
        found: Sequence[ProviderTransfer],
        transfers: Mapping[TransferKey, Transfer],
    ) -> bool:
        """Apply every transfer that the provider lists for the payout; return whether any moves
        money.

        The payout's own transfer comes first, then every other one that moves money, so that it is
        recorded as a duplicate. The payout's current transfer, if it no longer moves money, comes
        last, so that the payout can follow another one.
        """
        row = file.row
        own = domain.match_transfers(status_updates.attempt_refs(file.attempts), list(found))
        if own is not None and file.last is None:
            status_updates.remember(self._books, file, own, details=self.recipient.details)
        moving = [each for each in found if each.transfer_status.moves_money and each is not own]
        current = [
            each
            for each in found
            if each not in moving and each is not own and each.transfer_id == row.transfer_id
        ]
        for each in [*([own] if own else []), *moving, *current]:
            if each.transfer_status.moves_money:
                self._compare(file, each)
            status_updates.apply_status(
                self._books,
                file,
                transfers[self._key(each)],
                each.transfer_status,
                times=self._times,
                asked=True,
                reason=f"asked, {self.account.provider} reports {each.transfer_status}",
                amount_returned=status_updates.part_returned(row, each),
            )
        return bool(moving) or (own is not None and own.transfer_status.moves_money)

    def _compare(self, file: PayoutHistory, found: ProviderTransfer) -> None:
        destinations = self._destinations(file) if found.destination is not None else None
        status_updates.compare_amounts(self._books, file.row, found, destinations)

    def _free(self, file: PayoutHistory) -> PlannerAction:
        """Continue when the provider lists no transfer of the payout that moves money."""
        row, last = file.row, file.last
        if row.state == State.SUBMITTED:
            status_updates.schedule_status_check(
                self._books, row, self._times, "the provider does not list it"
            )
            return None
        if row.state not in {State.UNKNOWN, State.APPROVED}:
            return None
        if last is not None:
            # The status query may have begun one timeout ago.
            proved_at = (last.finished_at or last.deadline) + self._quiet + self._timeout
            if self._now < proved_at:
                status_updates.schedule_status_check(self._books, row, self._times, None)
                row.next_action_at = max(row.next_action_at or proved_at, proved_at)
                return None
        if row.state == State.UNKNOWN:
            self._move(row, Transition.FREE, "the provider was queried and does not list it")
        row.status_checks = 0
        if self._may_send(row):
            return self._intend(file)
        self._wait(row)
        return None

    def on_sent(
        self, file: PayoutHistory, item: PayoutSent, transfers: Mapping[TransferKey, Transfer]
    ) -> None:
        row, books = file.row, self._books
        attempt = file.attempts[item.number - 1]
        attempt.finished_at = self._now
        if isinstance(item.answer, ProviderTransfer):
            attempt.outcome, attempt.key_consumed = "accepted", True
            self._compare(file, item.answer)
            transfer = transfers[self._key(item.answer)]
            status_updates.apply_status(
                books, file, transfer, item.answer.transfer_status, times=self._times
            )
            if row.state == State.SUBMITTING and attempt is file.last:
                self._lose(file, "the provider repeats an answer of before", key_consumed=True)
            return
        error = item.answer
        attempt.outcome = outcome_of(error)
        attempt.error = self._rules.text(error)
        # A consumed key has a response, which the provider would repeat. A deferral consumes none.
        attempt.key_consumed = attempt.outcome != "deferred" and not isinstance(
            error, ProviderTimeout
        )
        if row.state != State.SUBMITTING or attempt is not file.last:
            return  # a webhook or another worker has newer information
        match attempt.outcome:
            case "refused":
                publish = status_updates.record_failure(books, row, attempt.error)
                self._move(row, Transition.REFUSE, attempt.error, publish=publish)
            case "deferred":
                row.error = attempt.error
                after = getattr(error, "retry_after", _NOT_AUTHORIZED_SECONDS)
                row.next_action_at = self._now + timedelta(seconds=after)
                self._move(row, Transition.DEFER, attempt.error)
            case _:
                self._lose(file, attempt.error, key_consumed=attempt.key_consumed)

    def defer(self, file: PayoutHistory, item: Defer) -> None:
        row = file.row
        if self._waits(row):
            row.next_action_at = self._now + timedelta(seconds=item.seconds)
            if row.state == State.APPROVED or row.error is None:
                row.error = item.error

    def _waits(self, row: Payout) -> bool:
        """Return whether a job brings the payout back for a status check; a failed one has its own
        retry time."""
        return row.next_action_at is not None and row.state != State.FAILED

    def _step(self, file: PayoutHistory, *, ask: bool) -> NextAction:
        row, last = file.row, file.last
        return domain.next_step(
            State(row.state),
            attempts=row.attempts + self._forgetful(row),
            held=row.held or self.recipient.blocked,
            stopped=self._stopped(row),
            due=row.due_at <= self._now,
            under_way=last is not None and last.outcome is None and last.deadline > self._now,
            asked_for=ask,
        )

    def _may_send(self, row: Payout) -> bool:
        held = row.held or self.recipient.blocked or self._stopped(row)
        approved = (
            row.state == State.APPROVED and row.due_at <= self._now and not self._is_void(row)
        )
        return approved and not held and self.account.pays

    def _is_void(self, row: Payout) -> bool:
        """Return whether the approval is void because the recipient's details were changed since. A
        payout that a restored database knows only from its provider has lost its approval time."""
        changed_at = self.recipient.details_changed_at
        if row.state != State.APPROVED or changed_at is None:
            return False
        if row.approved_at is not None:
            return changed_at > row.approved_at
        needs = self.account.needs_approval(row.amount, row.currency)
        return needs and changed_at > row.created_at

    def _stopped(self, row: Payout) -> bool:
        control = self._controls.get(row.tenant)
        unreconciled = (row.tenant, row.provider, row.account) in self._unreconciled
        return unreconciled or (control is not None and control.paused)

    def _forgetful(self, row: Payout) -> bool:
        """Return whether the payout may have been sent although no attempt is recorded."""
        control = self._controls.get(row.tenant)
        until = control.status_check_required_until if control else None
        return until is not None and self._now < until

    def _wait(self, row: Payout) -> None:
        """Wait until the payout is due, released, unblocked or resumed."""
        if row.held:
            row.next_action_at = None
        else:
            row.next_action_at = max(row.due_at, self._now + _BLOCKED * self.recipient.blocked)

    def _intend(self, file: PayoutHistory) -> SendPayout:
        row = file.row
        number = row.attempts + 1
        details = self.recipient.details
        key = self._key_again(file, details) or f"{row.id}.{number}"
        deadline = self._now + self._timeout + FRESH
        attempt = Attempt(
            payout_id=row.id,
            number=number,
            idempotency_key=key,
            started_at=self._now,
            deadline=deadline,
            key_consumed=False,
            details=details,
        )
        self._books.session.add(attempt)
        file.attempts.append(attempt)
        row.attempts = number
        row.next_action_at = deadline
        self._move(row, Transition.SEND, f"attempt {number}")
        return SendPayout(self._order(row, details), number, key, self._before)

    def _key_again(self, file: PayoutHistory, details: str) -> str | None:
        """Return the last attempt's key while the provider still recognises it: if that call is
        still under way there, it is not processed twice. Return None after a response, because
        Stripe would repeat it, failures included, and for other details, which are another
        request."""
        last = file.last
        if last is None or not self._same(file.row.provider, last.details, details):
            return None
        same = [e for e in file.attempts if e.idempotency_key == last.idempotency_key]
        if any(each.key_consumed or each.transfer_id or each.transfer_status for each in same):
            return None
        fresh = self._now - same[0].started_at < self.account.client.keeps_keys
        return last.idempotency_key if fresh else None

    def _same(self, provider: str, sealed: str, other: str) -> bool:
        """Return whether both are the same details: encrypting the same details again gives another
        ciphertext."""
        open_ = self._rules.details.open
        return sealed == other or open_(provider, sealed) == open_(provider, other)

    def _lose(self, file: PayoutHistory, error: str, *, key_consumed: bool) -> None:
        assert file.last is not None
        file.last.outcome = "unknown"
        file.last.key_consumed = key_consumed
        file.row.error = error
        file.row.status_checks = 0
        self._move(file.row, Transition.LOSE, error)
        status_updates.schedule_status_check(self._books, file.row, self._times, error)

    def _move(self, row: Payout, move: Transition, reason: str, *, publish: bool = True) -> None:
        to = domain.transition(State(row.state), move)
        self._books.transition(row, to, action=move, reason=reason, publish=publish)

    def _order(self, row: Payout, sealed: str) -> PayoutRequest:
        details = self._rules.details.open(row.provider, sealed)
        known = (row.transfer_id,) if row.transfer_id else ()
        return PayoutRequest(
            row.id,
            row.recipient_id,
            row.amount,
            row.currency,
            details,
            row.description,
            known,
        )

    def _destinations(self, file: PayoutHistory) -> frozenset[str]:
        """Return the provider's identifiers of every destination to which the payout was or will be
        sent."""
        sealed = {self.recipient.details, *(each.details for each in file.attempts)}
        open_ = self._rules.details.open
        return frozenset(open_(file.row.provider, each).provider_ref for each in sealed) - {""}

    def _key(self, found: ProviderTransfer) -> TransferKey:
        return self.account.transfer_key(found.transfer_id)

    @property
    def _quiet(self) -> timedelta:
        seconds = self.account.client.options.not_found_grace_seconds
        return self.account.client.quiet if seconds is None else timedelta(seconds=seconds)


def too_late() -> Exception:
    """Return the error that replaces a response when nothing was sent."""
    return RateLimited("this process was too slow to send it", 1)


def outcome_of(error: Exception) -> str:
    if isinstance(error, ProviderRejected):
        return "refused"
    if isinstance(error, RateLimited | NotAuthorized):
        return "deferred"
    return "unknown"

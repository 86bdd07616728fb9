"""Daily report, and comparison of a day's payouts with the provider's list. Both can be repeated at
any time and then give the current state."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event
from common.contracts.payouts import GenerateDailyReport, ReconcileAccount
from common.db import tenant_rows
from common.db.database import Sessions
from common.errors import Invalid, Permanent, RateLimited
from common.observability.logging import get_logger
from common.resilience.call_guard import CallGuard
from payouts import repository
from payouts.domain import State, TransferStatus
from payouts.execution.status_updates import StatusCheckDelays
from payouts.ledger import discrepancies
from payouts.ledger.audit_log import PAYBUS, Action
from payouts.ledger.unit_of_work import PayoutUnitOfWork
from payouts.models import (
    Discrepancy,
    Payout,
)
from payouts.providers.base import Incomplete, ListedTransfer, PayoutRequest
from payouts.providers.recipient_details import RecipientDetailsCipher
from payouts.providers.registry import Accounts, ProviderAccount
from payouts.reconciliation import daily_report
from payouts.reconciliation.adoption import adopt_listed
from payouts.reconciliation.daily_report import span

log = get_logger(__name__)

_PAGE = 500
# For differing clocks, and for payouts that are sent as the day ends.
_SLACK = timedelta(hours=1)
# Transfer statuses that agree with a payout's state.
_AGREE: Mapping[str, frozenset[TransferStatus]] = {
    State.SUBMITTED: frozenset(
        {TransferStatus.ACCEPTED, TransferStatus.PAID}
    ),  # a webhook may be on its way
    State.PAID: frozenset({TransferStatus.PAID}),
    State.RETURNED: frozenset({TransferStatus.RETURNED, TransferStatus.FAILED}),
    State.FAILED: frozenset({TransferStatus.FAILED}),
    State.CANCELLED: frozenset({TransferStatus.FAILED, TransferStatus.RETURNED}),
}


class Reconciler:
    def __init__(
        self,
        sessions: Sessions,
        accounts: Accounts,
        details: RecipientDetailsCipher,
        times: StatusCheckDelays,
    ) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._details = details
        self._times = times

    async def generate_report(self, event: Event[GenerateDailyReport]) -> None:
        async with self._sessions.begin() as session:
            await daily_report.write_report(session, event.tenant, event.data.day)

    async def run(self, event: Event[ReconcileAccount]) -> None:
        command = event.data
        try:
            account = self._accounts.find(event.tenant, command.provider, command.account)
        except Invalid as error:
            raise Permanent(str(error)) from error
        await self._reconcile(account, command.day)

    async def _reconcile(self, account: ProviderAccount, day: date) -> None:
        """Compare each transfer of the day at the provider with its payout, in both directions."""
        first, last = span(day)
        orders: list[PayoutRequest] = []
        ours: dict[str, ExpectedTransfer] = {}
        async with self._sessions() as session:
            async for row, attempt, begun in repository.sent_between(
                session, account.key, first, last
            ):
                details = self._details.open(row.provider, attempt.details)
                orders.append(
                    PayoutRequest(
                        row.id,
                        row.recipient_id,
                        row.amount,
                        row.currency,
                        details,
                        row.description,
                    )
                )
                ours[row.id] = ExpectedTransfer(row, attempt.transfer_id, whole=begun >= first)
            recovers = await repository.is_recovering(session, account.key, day)
            # A restored database may lack some of its own payouts.
            of_all = not account.pays or recovers
            others = await self._of_recipients(session, account) if of_all else []
        span_ = (first - _SLACK, last + _SLACK)
        theirs, fault = await self._listed(account, span_, orders, others)
        async with self._sessions.begin() as session:
            more = {"recovers": recovers}
            fault = await adopt_listed(session, account, theirs, self._times, **more) or fault
        async with self._sessions.begin() as session:
            found = await _differences(session, account, day, ours, theirs)
            # Payouts before discrepancies: the common lock order.
            ids = [each.payout_id for each in found if each.kind in {"state", "amount"}]
            await repository.lock_payouts(session, [id_ for id_ in ids if id_])
            await _save(session, account, day, found, checked=ours.keys())
            await _enqueue_status_checks(session, ids)
            if await repository.settle_recovery(session, account.key, day, fault):
                await _note_recovered(session, account.tenant)
        outcome = f"{len(found)} discrepancies" if found else "no discrepancy"
        tell = log.error if found else log.info
        tell("reconciled", account=account.path, day=str(day), outcome=outcome)

    async def _listed(
        self,
        account: ProviderAccount,
        span: tuple[datetime, datetime],
        orders: Sequence[PayoutRequest],
        others: Sequence[PayoutRequest],
    ) -> tuple[list[ListedTransfer], str | None]:
        """Return the provider's transfers, and a fault if the list is incomplete: then each of our
        payouts is queried. `others` only name recipients."""
        client, gate = account.client, account.gate
        first, last = span
        try:
            async with gate.admit(), gate.call():
                listed = client.transfers(first, last, [*orders, *others])
                return [each async for each in listed], None
        except Incomplete as error:
            fault = str(error)
        found: list[ListedTransfer] = []
        for order in orders:
            found += await _call_with_retry(gate, lambda order=order: client.find(order, first))  # type: ignore[misc]
        return found, fault

    async def _of_recipients(
        self, session: AsyncSession, account: ProviderAccount
    ) -> list[PayoutRequest]:
        """Return requests that name the account's recipients, for providers that list transfers by
        recipient."""
        return [
            PayoutRequest(
                row.id, row.id, 0, row.currency, self._details.open(row.provider, row.details), None
            )
            for row in await repository.recipients_at(session, account.key)
        ]


async def _note_recovered(session: AsyncSession, tenant: str) -> None:
    books = PayoutUnitOfWork(session, await tenant_rows.database_now(session))
    reason = "every day that the restored database may have forgotten is reconciled"
    subject = f"tenant/{tenant}"
    books.audit(Action(books.now, tenant, PAYBUS, "recovered", subject, reason=reason))
    await books.flush()
    log.info("reconciled_after_restore", tenant=tenant)


@dataclass(frozen=True)
class ExpectedTransfer:
    """A payout of the day. `whole` is whether all its attempts began that day: if not, the provider
    may list the transfer under another day."""

    row: Payout
    transfer_id: str | None
    whole: bool


async def _call_with_retry(
    gate: CallGuard, ask: Callable[[], Awaitable[Sequence[ListedTransfer]]]
) -> list[ListedTransfer]:
    """Call through the account's gate, waiting as long as it takes."""
    while True:
        try:
            async with gate.admit(), gate.call():
                return list(await ask())
        except RateLimited as error:
            await asyncio.sleep(error.retry_after)


async def _enqueue_status_checks(session: AsyncSession, ids: Sequence[str | None]) -> None:
    """Enqueue a status check of the payouts that differ, which corrects them."""
    found = await repository.lock_payouts(session, [id_ for id_ in ids if id_])
    books = PayoutUnitOfWork(session, await tenant_rows.database_now(session))
    for row in found.values():
        books.enqueue(row, "low", ask=True)
    await books.flush()


async def _differences(
    session: AsyncSession,
    account: ProviderAccount,
    day: date,
    ours: Mapping[str, ExpectedTransfer],
    theirs: Sequence[ListedTransfer],
) -> list[Discrepancy]:
    first, last = span(day)
    moving: Counter[str] = Counter()
    by_transfer = await repository.owners_of(
        session, account.provider, [e.transfer_id for e in theirs]
    )
    seen: dict[str, list[ListedTransfer]] = {}
    found: list[Discrepancy] = []
    # Pages that shift while they are read list a transfer twice.
    for each in {each.transfer_id: each for each in theirs}.values():
        called = None if each.of_recipient else each.reference
        id_ = by_transfer.get(each.transfer_id) or called or ""
        seen.setdefault(id_, []).append(each)
        if each.transfer_status.moves_money:
            moving[id_] += 1
    foreign = {id_ for id_ in seen if id_ not in ours}
    known = await repository.payouts(session, foreign)
    for id_, listed in seen.items():
        row = ours[id_].row if id_ in ours else known.get(id_)
        if row is not None and (row.tenant, row.provider, row.account) != account.key:
            continue  # the account serves another tenant too: compared there
        if row is None:
            found += [
                discrepancies.not_ours(account, day, each.transfer_id, _description(each))
                for each in listed
                if first <= each.created_at < last
            ]
            continue
        if moving[id_] > 1:
            kind, said = discrepancies.DOUBLED, ("once", "once more")
            found += [
                discrepancies.of_payout(row, day, kind, each, *said)
                for each in _duplicate_transfers(row, listed)
            ]
        if id_ in ours:
            current = [one for one in listed if one.transfer_status.moves_money] or listed
            found += _compared(day, row, current[-1])
    for id_, mine in ours.items():
        row = mine.row
        if id_ not in seen and mine.whole and row.state in {State.SUBMITTED, State.PAID}:
            said = (row.state, "not listed")
            found.append(discrepancies.of_payout(row, day, "missing", mine.transfer_id, *said))
    return found


def _duplicate_transfers(row: Payout, listed: Sequence[ListedTransfer]) -> list[str]:
    """Return the transfers that move money besides the payout's own."""
    moving = [each.transfer_id for each in listed if each.transfer_status.moves_money]
    own = row.transfer_id if row.transfer_id in moving else moving[0]
    return [each for each in moving if each != own]


def _compared(day: date, row: Payout, listed: ListedTransfer) -> list[Discrepancy]:
    found = []
    transfer, ours = listed.transfer_id, f"{row.amount - row.amount_returned} {row.currency}"
    if (theirs := f"{listed.amount - listed.amount_returned} {listed.currency}") != ours:
        found.append(discrepancies.of_payout(row, day, "amount", transfer, ours, theirs))
    agree = _AGREE.get(row.state)
    if agree is not None and listed.transfer_status not in agree:
        found.append(
            discrepancies.of_payout(row, day, "state", transfer, row.state, listed.transfer_status)
        )
    return found


async def _save(
    session: AsyncSession,
    account: ProviderAccount,
    day: date,
    found: Sequence[Discrepancy],
    *,
    checked: Collection[str],
) -> None:
    await discrepancies.keep(session, found)
    now = await tenant_rows.database_now(session)
    await discrepancies.resolve_others(session, account, day, found, checked=checked, now=now)


def _description(listed: ListedTransfer) -> str:
    return f"{listed.amount} {listed.currency}, {listed.transfer_status}"

"""Work that no payout waits for: the report of a day, and the comparison of its payouts with what a
provider says. Both can be done again at any time, and then say what is so now."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from common import rows
from common.contracts.event import Event
from common.contracts.payouts import PayoutWork
from common.database import Sessions
from common.errors import Invalid, Permanent, RateLimited
from common.gate import Gate
from common.logs import get_logger
from payouts import differences, reporting, repository
from payouts.accounts import Account, Accounts
from payouts.adoption import adopt_listed
from payouts.audit import PAYBUS, Action
from payouts.books import Books
from payouts.clients import Incomplete, Listed, Order
from payouts.details import Details
from payouts.domain import Fate, State
from payouts.models import (
    Attempt,
    Difference,
    Payout,
    Recipient,
)
from payouts.reporting import span
from payouts.settling import Times

log = get_logger(__name__)

_PAGE = 500
# A provider's clock, and payouts that are sent as the day ends.
_SLACK = timedelta(hours=1)
# What a provider says of a transfer, by the state that we have the payout in.
_AGREE: Mapping[str, frozenset[Fate]] = {
    State.SUBMITTED: frozenset({Fate.ACCEPTED, Fate.PAID}),  # a webhook may be on its way
    State.PAID: frozenset({Fate.PAID}),
    State.RETURNED: frozenset({Fate.RETURNED, Fate.FAILED}),
    State.FAILED: frozenset({Fate.FAILED}),
    State.CANCELLED: frozenset({Fate.FAILED, Fate.RETURNED}),
}


class Worker:
    def __init__(
        self, sessions: Sessions, accounts: Accounts, details: Details, times: Times
    ) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._details = details
        self._times = times

    async def do(self, event: Event[PayoutWork]) -> None:
        work = event.data
        if work.kind == "report":
            async with self._sessions.begin() as session:
                await reporting.write_report(session, event.tenant, work.day)
            return
        try:
            account = self._accounts.find(event.tenant, work.provider or "", work.account or "")
        except Invalid as error:
            raise Permanent(str(error)) from error
        await self._reconcile(account, work.day)

    async def _reconcile(self, account: Account, day: date) -> None:
        """Compare each transfer of the day at the provider with its payout, both ways."""
        first, last = span(day)
        orders: list[Order] = []
        ours: dict[str, Ours] = {}
        async with self._sessions() as session:
            async for row, attempt, begun in _sent(session, account, first, last):
                details = self._details.open(row.provider, attempt.details)
                orders.append(
                    Order(
                        row.id,
                        row.recipient_id,
                        row.amount,
                        row.currency,
                        details,
                        row.description,
                    )
                )
                ours[row.id] = Ours(row, attempt.transfer_id, whole=begun >= first)
            recovers = await repository.is_recovering(session, account.key, day)
            # Of a restored database's own payouts some may be missing.
            of_all = not account.pays or recovers
            others = await self._of_recipients(session, account) if of_all else []
        span_ = (first - _SLACK, last + _SLACK)
        theirs, fault = await self._listed(account, span_, orders, others)
        async with self._sessions.begin() as session:
            more = {"recovers": recovers}
            fault = await adopt_listed(session, account, theirs, self._times, **more) or fault
        async with self._sessions.begin() as session:
            found = await _differences(session, account, day, ours, theirs)
            # Payouts before differences, as everybody locks them.
            ids = [each.payout_id for each in found if each.kind in {"state", "amount"}]
            await repository.lock_payouts(session, [id_ for id_ in ids if id_])
            await _keep(session, account, day, found, checked=ours.keys())
            await _have_asked(session, ids)
            if await repository.settle_recovery(session, account.key, day, fault):
                await _note_recovered(session, account.tenant)
        outcome = f"{len(found)} differences" if found else "no difference"
        tell = log.error if found else log.info
        tell("reconciled", account=account.path, day=str(day), outcome=outcome)

    async def _listed(
        self,
        account: Account,
        span: tuple[datetime, datetime],
        orders: Sequence[Order],
        others: Sequence[Order],
    ) -> tuple[list[Listed], str | None]:
        """What the provider lists, and what is wrong when that is not all: then each of our own is
        asked about. `others` only name recipients."""
        client, gate = account.client, account.gate
        first, last = span
        try:
            async with gate.place(), gate.call():
                listed = client.transfers(first, last, [*orders, *others])
                return [each async for each in listed], None
        except Incomplete as error:
            fault = str(error)
        found: list[Listed] = []
        for order in orders:
            found += await _patiently(gate, lambda order=order: client.find(order, first))  # type: ignore[misc]
        return found, fault

    async def _of_recipients(self, session: AsyncSession, account: Account) -> list[Order]:
        """Of whom a provider that pays by itself is asked."""
        query = select(Recipient).where(
            Recipient.tenant == account.tenant,
            Recipient.provider == account.provider,
            Recipient.account == account.name,
        )
        return [
            Order(
                row.id, row.id, 0, row.currency, self._details.open(row.provider, row.details), None
            )
            for row in (await session.scalars(query)).all()
        ]


async def _note_recovered(session: AsyncSession, tenant: str) -> None:
    books = Books(session, await rows.clock(session))
    reason = "every day that the restored database may have forgotten is reconciled"
    subject = f"tenant/{tenant}"
    books.act(Action(books.now, tenant, PAYBUS, "recovered", subject, reason=reason))
    await books.close()
    log.info("reconciled after a restore", tenant=tenant)


@dataclass(frozen=True)
class Ours:
    """A payout of the day; `whole` is whether all of its attempts are: if not, the transfer may
    stand under another day at the provider."""

    row: Payout
    transfer_id: str | None
    whole: bool


async def _patiently(gate: Gate, ask: Callable[[], Awaitable[Sequence[Listed]]]) -> list[Listed]:
    """Through the account's gate, however long the way there is."""
    while True:
        try:
            async with gate.place(), gate.call():
                return list(await ask())
        except RateLimited as error:
            await asyncio.sleep(error.retry_after)


async def _have_asked(session: AsyncSession, ids: Sequence[str | None]) -> None:
    """What the provider says otherwise is looked up, which puts the books right."""
    found = await repository.lock_payouts(session, [id_ for id_ in ids if id_])
    books = Books(session, await rows.clock(session))
    for row in found.values():
        books.order(row, "low", ask=True)
    await books.close()


async def _sent(
    session: AsyncSession, account: Account, first: datetime, last: datetime
) -> AsyncIterator[tuple[Payout, Attempt, datetime]]:
    """Payouts of which the last attempt began in that time, each with it and with when the first
    one began."""
    after = ""
    each = aliased(Attempt)
    begun = select(func.min(each.started_at)).where(each.payout_id == Payout.id).scalar_subquery()
    while True:
        query = (
            select(Payout, Attempt, begun)
            .join(Attempt, (Attempt.payout_id == Payout.id) & (Attempt.number == Payout.attempts))
            .where(
                Payout.tenant == account.tenant,
                Payout.provider == account.provider,
                Payout.account == account.name,
                Attempt.started_at >= first,
                Attempt.started_at < last,
                Payout.id > after,
            )
            .order_by(Payout.id)
            .limit(_PAGE)
        )
        page = (await session.execute(query)).all()
        for row, attempt, at in page:
            yield row, attempt, at
        if len(page) < _PAGE:
            return
        after = page[-1][0].id


async def _differences(
    session: AsyncSession,
    account: Account,
    day: date,
    ours: Mapping[str, Ours],
    theirs: Sequence[Listed],
) -> list[Difference]:
    first, last = span(day)
    moving: Counter[str] = Counter()
    by_transfer = await repository.owners_of(
        session, account.provider, [e.transfer_id for e in theirs]
    )
    seen: dict[str, list[Listed]] = {}
    found: list[Difference] = []
    # Pages that shift while they are read show a transfer twice.
    for each in {each.transfer_id: each for each in theirs}.values():
        called = None if each.of_recipient else each.reference
        id_ = by_transfer.get(each.transfer_id) or called or ""
        seen.setdefault(id_, []).append(each)
        if each.fate.moves_money:
            moving[id_] += 1
    foreign = {id_ for id_ in seen if id_ not in ours}
    known = await repository.payouts(session, foreign)
    for id_, listed in seen.items():
        row = ours[id_].row if id_ in ours else known.get(id_)
        if row is not None and (row.tenant, row.provider, row.account) != account.key:
            continue  # the account serves another tenant, too: it is compared there
        if row is None:
            found += [
                differences.not_ours(account, day, each.transfer_id, _said(each))
                for each in listed
                if first <= each.created_at < last
            ]
            continue
        if moving[id_] > 1:
            kind, said = differences.DOUBLED, ("once", "once more")
            found += [
                differences.of_payout(row, day, kind, each, *said)
                for each in _once_more(row, listed)
            ]
        if id_ in ours:
            current = [one for one in listed if one.fate.moves_money] or listed
            found += _compared(day, row, current[-1])
    for id_, mine in ours.items():
        row = mine.row
        if id_ not in seen and mine.whole and row.state in {State.SUBMITTED, State.PAID}:
            said = (row.state, "not listed")
            found.append(differences.of_payout(row, day, "missing", mine.transfer_id, *said))
    return found


def _once_more(row: Payout, listed: Sequence[Listed]) -> list[str]:
    """The transfers that move money beside the payout's own."""
    moving = [each.transfer_id for each in listed if each.fate.moves_money]
    own = row.transfer_id if row.transfer_id in moving else moving[0]
    return [each for each in moving if each != own]


def _compared(day: date, row: Payout, listed: Listed) -> list[Difference]:
    found = []
    transfer, ours = listed.transfer_id, f"{row.amount - row.amount_returned} {row.currency}"
    if (theirs := f"{listed.amount - listed.amount_returned} {listed.currency}") != ours:
        found.append(differences.of_payout(row, day, "amount", transfer, ours, theirs))
    agree = _AGREE.get(row.state)
    if agree is not None and listed.fate not in agree:
        found.append(differences.of_payout(row, day, "state", transfer, row.state, listed.fate))
    return found


async def _keep(
    session: AsyncSession,
    account: Account,
    day: date,
    found: Sequence[Difference],
    *,
    checked: Collection[str],
) -> None:
    await differences.keep(session, found)
    now = await rows.clock(session)
    await differences.resolve_others(session, account, day, found, checked=checked, now=now)


def _said(listed: Listed) -> str:
    return f"{listed.amount} {listed.currency}, {listed.fate}"

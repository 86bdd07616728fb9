"""Work that no payout waits for: the report of a day, and its comparison with what a provider says.

Both can be done again at any time, and then say what is so now.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from common import rows
from common.contracts.event import Event, derived_id
from common.contracts.payouts import PayoutWork
from common.database import Sessions
from common.errors import Invalid, Permanent, RateLimited
from common.gate import Gate
from common.logs import get_logger
from payouts import reporting, repository
from payouts.accounts import Account, Accounts
from payouts.books import STAYS_RESOLVED, Books
from payouts.clients import Listed, Order
from payouts.details import Details
from payouts.domain import Fate, State
from payouts.models import (
    Attempt,
    Difference,
    Payout,
    Recipient,
    Transfer,
)
from payouts.reporting import span
from payouts.requests import stored

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
    def __init__(self, sessions: Sessions, accounts: Accounts, details: Details) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._details = details

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
                wanted = stored(row.request)
                orders.append(Order(row.id, row.amount, row.currency, details, wanted.description))
                ours[row.id] = Ours(row, attempt.transfer_id, whole=begun >= first)
            if not account.pays:
                orders += await self._of_recipients(session, account)
        theirs = await self._listed(account, first - _SLACK, last + _SLACK, orders)
        async with self._sessions.begin() as session:
            found = await _differences(session, account, day, ours, theirs)
            # Payouts before differences, as everybody locks them.
            ids = [each.payout_id for each in found if each.kind == "state"]
            await repository.lock_payouts(session, [id_ for id_ in ids if id_])
            await _keep(session, account, day, found, checked=ours.keys())
            await _have_asked(session, ids)

    async def _listed(
        self, account: Account, first: datetime, last: datetime, orders: Sequence[Order]
    ) -> list[Listed]:
        client, gate = account.client, account.gate
        if client.lists:
            async with gate.place(), gate.call():
                return [each async for each in client.transfers(first, last, orders)]
        found: list[Listed] = []
        for order in orders:
            found += await _patiently(gate, lambda order=order: client.find(order, first))  # type: ignore[misc]
        return found

    async def _of_recipients(self, session: AsyncSession, account: Account) -> list[Order]:
        """Of whom a provider that pays by itself is asked."""
        query = select(Recipient).where(
            Recipient.tenant == account.tenant,
            Recipient.provider == account.provider,
            Recipient.account == account.name,
        )
        return [
            Order(row.id, 0, row.currency, self._details.open(row.provider, row.details), None)
            for row in (await session.scalars(query)).all()
        ]


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
    by_transfer = await _owners(session, account, theirs)
    seen: dict[str, list[Listed]] = {}
    found: list[Difference] = []
    for each in theirs:
        id_ = by_transfer.get(each.transfer_id) or each.reference or ""
        seen.setdefault(id_, []).append(each)
        if each.fate.moves_money:
            moving[id_] += 1
    foreign = {id_ for id_ in seen if id_ not in ours}
    known = await _rows(session, account.tenant, foreign)
    for id_, listed in seen.items():
        row = ours[id_].row if id_ in ours else known.get(id_)
        if row is None:
            found += [
                _difference(account, day, "not ours", None, each, "none", _said(each))
                for each in listed
                if first <= each.created_at < last
            ]
            continue
        if moving[id_] > 1:
            for each in [one for one in listed if one.fate.moves_money][1:]:
                found.append(_difference(account, day, "doubled", row, each, "once", _said(each)))
        if id_ in ours:
            current = [one for one in listed if one.fate.moves_money] or listed
            found += _compared(account, day, row, current[-1])
    for id_, mine in ours.items():
        row = mine.row
        if id_ not in seen and mine.whole and row.state in {State.SUBMITTED, State.PAID}:
            said = (row.state, "not listed", mine.transfer_id)
            found.append(_difference(account, day, "missing", row, None, *said))
    return found


def _compared(account: Account, day: date, row: Payout, listed: Listed) -> list[Difference]:
    found = []
    if (listed.amount, listed.currency) != (row.amount, row.currency):
        ours = f"{row.amount} {row.currency}"
        found.append(_difference(account, day, "amount", row, listed, ours, _said(listed)))
    agree = _AGREE.get(row.state)
    if agree is not None and listed.fate not in agree:
        found.append(_difference(account, day, "state", row, listed, row.state, listed.fate))
    return found


async def _owners(
    session: AsyncSession, account: Account, theirs: Sequence[Listed]
) -> Mapping[str, str]:
    query = select(Transfer.transfer_id, Transfer.payout_id).where(
        Transfer.provider == account.provider,
        Transfer.account == account.name,
        Transfer.payout_id.is_not(None),
        Transfer.transfer_id.in_([each.transfer_id for each in theirs]),
    )
    return {id_: payout for id_, payout in (await session.execute(query)).all() if payout}


async def _rows(session: AsyncSession, tenant: str, ids: set[str]) -> Mapping[str, Payout]:
    query = select(Payout).where(Payout.id.in_(ids), Payout.tenant == tenant)
    return {row.id: row for row in (await session.scalars(query)).all()}


def _difference(
    account: Account,
    day: date,
    kind: str,
    row: Payout | None,
    listed: Listed | None,
    ours: str,
    theirs: str,
    transfer_id: str | None = None,
) -> Difference:
    transfer = listed.transfer_id if listed else transfer_id
    about = row.id if row else account.path
    return Difference(
        id=derived_id("differences", about, kind, transfer or ""),
        tenant=account.tenant,
        day=day,
        provider=account.provider,
        account=account.name,
        kind=kind,
        payout_id=row.id if row else None,
        transfer_id=transfer,
        ours=ours,
        theirs=theirs,
    )


async def _keep(
    session: AsyncSession,
    account: Account,
    day: date,
    found: Sequence[Difference],
    *,
    checked: Collection[str],
) -> None:
    """New ones are kept. Those of the day that are not found any more are resolved, if they are
    about a payout that was `checked` or about none; what was paid twice stays until a person has
    dealt with it."""
    now = await rows.clock(session)
    for each in sorted(found, key=lambda difference: difference.id):
        row = insert(Difference).values(
            {name: getattr(each, name) for name in _COLUMNS} | {"resolved_at": None}
        )
        await session.execute(
            row.on_conflict_do_update(
                index_elements=[Difference.id],
                set_={"ours": each.ours, "theirs": each.theirs, "resolved_at": STAYS_RESOLVED},
            )
        )
    await session.execute(
        update(Difference)
        .where(
            Difference.tenant == account.tenant,
            Difference.day == day,
            Difference.provider == account.provider,
            Difference.account == account.name,
            Difference.resolved_at.is_(None),
            Difference.kind != "doubled",
            or_(Difference.payout_id.is_(None), Difference.payout_id.in_(list(checked))),
            Difference.id.not_in([each.id for each in found]),
        )
        .values(resolved_at=now)
    )
    outcome = f"{len(found)} differences" if found else "no difference"
    (log.error if found else log.info)(
        "reconciled", account=account.path, day=str(day), outcome=outcome
    )


_COLUMNS = (
    "id", "tenant", "day", "provider", "account", "kind", "payout_id", "transfer_id", "ours",
    "theirs",
)  # fmt: skip


def _said(listed: Listed) -> str:
    return f"{listed.amount} {listed.currency}, {listed.fate}"

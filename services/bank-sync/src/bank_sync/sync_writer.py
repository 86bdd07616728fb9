"""Writing of an update: accounts with their balances, and transactions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import domain, events, models, repository
from bank_sync.domain import SyncUpdate
from bank_sync.models import Account, Item
from common.contracts.event import Event, derived_id

_MOST_ROWS = 2000


@dataclass
class SyncWriteResult:
    """The numbers of new, changed and removed transactions, and the events to publish."""

    added: int = 0
    modified: int = 0
    removed: int = 0
    events: list[Event[Any]] = field(default_factory=list)


async def apply(
    session: AsyncSession, item: Item, update: SyncUpdate, now: datetime, *, read_at: datetime
) -> SyncWriteResult:
    """Write the update in the (locked) item's transaction. `read_at` is when its reading began."""
    applied = SyncWriteResult()
    changed = await write_accounts(session, item, update.accounts.values(), read_at)
    applied.events += [events.balance_updated(item, each, now) for each in changed]
    gone = [_id(item, each) for each in update.gone]
    for some in _parts(gone):
        applied.removed += await repository.delete_transactions(session, some)
    if update.whole and update.complete and update.there:
        # Removals since the refused cursor are not reported. The provider may no longer have what
        # is older than all that it has now.
        first = min(each.date for each in update.there.values())
        kept = [_id(item, each) for each in update.there]
        applied.removed += await repository.delete_other_transactions(session, item.id, first, kept)
    accounts = {id_: models.account_id(item.id, id_) for id_ in _accounts_of(update)}
    for some in _parts(sorted(update.there)):
        values = [_row(item, update.there[id_], accounts) for id_ in some]
        new, old = await repository.write_transactions(session, values)
        applied.added += new
        applied.modified += old
    first_complete = update.complete and not item.complete
    if applied.added or applied.modified or applied.removed or first_complete:
        synced = events.transactions_synced(
            item,
            update,
            now,
            added=applied.added,
            modified=applied.modified,
            removed=applied.removed,
        )
        applied.events.append(synced)
    return applied


async def write_accounts(
    session: AsyncSession,
    item: Item,
    said: Iterable[domain.Account],
    read_at: datetime,
    *,
    live: bool = False,
) -> list[Account]:
    """Write the accounts, and return those whose balance has changed. `live` is whether the bank
    itself was queried: a figure that it gave after `read_at` is retained."""
    by_id = {models.account_id(item.id, each.account_id): each for each in said}
    there = {row.id: row for row in await repository.accounts(session, by_id)}
    changed = []
    for id_, each in sorted(by_id.items()):
        row = there.get(id_)
        if row is None:
            row = Account(id=id_, tenant=item.tenant, item=item.id, account_id=each.account_id)
            session.add(row)
        row.name, row.official_name, row.mask = each.name, each.official_name, each.mask
        row.type, row.subtype, row.closed = each.type, each.subtype, False
        if row.live_at is not None and row.live_at > read_at:
            continue
        before = (row.available, row.current, row.limit, row.currency) if id_ in there else None
        row.available, row.current, row.limit = each.available, each.current, each.limit
        row.currency, row.unofficial_currency = each.currency, each.unofficial
        row.balance_at = read_at
        if live:
            row.live_at = read_at
        if (row.available, row.current, row.limit, row.currency) != before:
            changed.append(row)
            if not live:
                row.live_at = None  # the stored figure is no longer the bank's own
    await session.flush()
    return changed


def _row(item: Item, said: domain.Transaction, accounts: dict[str, str]) -> dict[str, Any]:
    return {
        "id": _id(item, said.transaction_id),
        "tenant": item.tenant,
        "item": item.id,
        "account": accounts[said.account_id],
        "transaction_id": said.transaction_id,
        "amount": said.money.amount,
        "currency": said.money.currency,
        "unofficial_currency": said.money.unofficial,
        "rounded": said.money.rounded,
        "date": said.date,
        "authorized_date": said.authorized_date,
        "at": said.at,
        "name": said.name,
        "merchant": said.merchant,
        "pending": said.pending,
        "pending_transaction_id": said.pending_transaction_id,
        "channel": said.channel,
        "category": said.category,
        "category_detailed": said.category_detailed,
    }


def _id(item: Item, transaction_id: str) -> str:
    return derived_id("bank transactions", item.id, transaction_id)


def _accounts_of(update: SyncUpdate) -> set[str]:
    return {each.account_id for each in update.there.values()}


def _parts(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(ids), _MOST_ROWS):
        yield ids[start : start + _MOST_ROWS]

"""SQL of the service. Rows are locked in one order: items, syncs, accounts, transactions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    Boolean,
    Select,
    Text,
    cast,
    delete,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import events, models
from bank_sync.models import Account, Institution, InstitutionHour, Item, Sync, Transaction
from common.db import tenant_rows
from common.db.bulk import columns_of, equals_any, insert_rows
from common.errors import Invalid
from common.messaging import outbox

_COLUMNS = (
    "id", "tenant", "item", "account", "transaction_id", "amount", "currency",
    "unofficial_currency", "rounded", "date", "authorized_date", "at", "name", "merchant",
    "pending", "pending_transaction_id", "channel", "category", "category_detailed",
)  # fmt: skip
_INSERT = insert_rows(Transaction.__table__, _COLUMNS)  # type: ignore[arg-type]
_UPSERT = _INSERT.on_conflict_do_update(
    index_elements=["id"], set_={name: _INSERT.excluded[name] for name in _COLUMNS[3:]}
).returning(literal_column("xmax = 0", Boolean).label("new"))
_WRITTEN = _UPSERT.cte("written")
_WRITE = select(
    func.count().filter(_WRITTEN.c.new), func.count().filter(~_WRITTEN.c.new)
).select_from(_WRITTEN)
_NO_CATEGORY = "UNCATEGORIZED"


async def lock_item(session: AsyncSession, id_: str) -> Item | None:
    query = select(Item).where(Item.id == id_).with_for_update()
    found = await session.scalars(query.execution_options(populate_existing=True))
    return found.one_or_none()


async def lock_items(session: AsyncSession, ids: Iterable[str]) -> dict[str, Item]:
    query = select(Item).where(equals_any(Item.id, sorted({*ids}))).order_by(Item.id)
    locking = query.with_for_update().execution_options(populate_existing=True)
    return {row.id: row for row in (await session.scalars(locking)).all()}


async def lock_sync(session: AsyncSession, id_: str) -> Sync | None:
    query = select(Sync).where(Sync.id == id_).with_for_update()
    found = await session.scalars(query.execution_options(populate_existing=True))
    return found.one_or_none()


async def request_sync(session: AsyncSession, item: Item, cause: str, now: datetime) -> str:
    """Request a sync of the item and return its id. If one is queued already, which will read the
    same changes, return its id."""
    queuing = (
        insert(Sync)
        .values(
            id=uuid4().hex,
            tenant=item.tenant,
            item=item.id,
            cause=cause,
            status="queued",
            requested_at=now,
        )
        .on_conflict_do_nothing(index_elements=[Sync.item], index_where=text("status = 'queued'"))
        .returning(Sync.id)
    )
    id_ = await session.scalar(queuing)
    if id_ is not None:
        await enqueue_syncs(session, [(item.tenant, item.id, id_)], now)
        return str(id_)
    return str(await session.scalar(queued_of(item.id)))


async def cancel_running(session: AsyncSession, item: str) -> None:
    """Request cancellation of the item's running sync, if there is one; it then writes nothing."""
    running = update(Sync).where(Sync.item == item, Sync.status == "running")
    await session.execute(running.values(cancel_requested=True))


async def enqueue_waiting(session: AsyncSession, tenant: str, item: str, now: datetime) -> None:
    """Enqueue the item's queued sync, if there is one, which waited for another sync to end."""
    waiting = (await session.scalars(queued_of(item))).all()
    await enqueue_syncs(session, [(tenant, item, id_) for id_ in waiting], now)


def queued_of(item: str) -> Any:
    return select(Sync.id).where(Sync.item == item, Sync.status == "queued")


async def enqueue_syncs(
    session: AsyncSession, syncs: Iterable[tuple[str, str, str]], now: datetime
) -> None:
    """Enqueue the syncs (tenant, item, id) for a worker; published when the transaction commits."""
    due = [events.sync_due(tenant, item, id_, now) for tenant, item, id_ in syncs]
    await outbox.enqueue(session, due)


async def tell_removals(session: AsyncSession, items: Sequence[Item], now: datetime) -> None:
    """Enqueue the removal of the items at the provider; published when the transaction commits."""
    await outbox.enqueue(session, [events.removal_due(item, now) for item in items])


async def link_item(
    session: AsyncSession, values: Mapping[str, Any], changed: Mapping[str, Any]
) -> Item:
    """Insert the item, or apply `changed` to the one with its id under a new version; return it,
    locked."""
    await session.execute(
        insert(Item)
        .values(values)
        .on_conflict_do_update(
            index_elements=[Item.id], set_={**changed, "version": Item.version + 1}
        )
    )
    item = await lock_item(session, values["id"])
    assert item is not None
    return item


async def save_institution(session: AsyncSession, values: Mapping[str, Any]) -> None:
    row = insert(Institution).values(values)
    changed = {name: getattr(row.excluded, name) for name in ("name", "url", "oauth")}
    await session.execute(row.on_conflict_do_update(index_elements=[Institution.id], set_=changed))


async def accounts_of(session: AsyncSession, item: str) -> Sequence[Account]:
    return (await session.scalars(select(Account).where(Account.item == item))).all()


async def accounts(session: AsyncSession, ids: Iterable[str]) -> Sequence[Account]:
    query = select(Account).where(equals_any(Account.id, sorted(ids)))
    return (await session.scalars(query)).all()


async def balances_read_at(session: AsyncSession, item: str) -> Sequence[datetime | None]:
    """Return when each open account's balance was last read from the bank itself."""
    query = select(Account.live_at).where(Account.item == item, ~Account.closed)
    return (await session.scalars(query)).all()


async def write_transactions(
    session: AsyncSession, rows: Sequence[Mapping[str, Any]]
) -> tuple[int, int]:
    """Insert or replace the transactions; return the numbers of new and of known ones."""
    new, known = (await session.execute(_WRITE, columns_of(rows, _COLUMNS))).one()
    return new, known


async def delete_transactions(session: AsyncSession, ids: Sequence[str]) -> int:
    """Delete the transactions; return how many there were."""
    deleting = delete(Transaction).where(equals_any(Transaction.id, ids)).returning(Transaction.id)
    return len((await session.execute(deleting)).all())


async def delete_other_transactions(
    session: AsyncSession, item: str, since: date, kept: Sequence[str]
) -> int:
    """Delete the item's transactions since that day that are not among `kept`; return how many
    there were."""
    deleting = (
        delete(Transaction)
        .where(
            Transaction.item == item,
            Transaction.date >= since,
            ~equals_any(Transaction.id, kept),
        )
        .returning(Transaction.id)
    )
    return len((await session.execute(deleting)).all())


async def spending(
    session: AsyncSession,
    tenant: str,
    filters: Mapping[str, Any],
    first: date | None,
    last: date | None,
) -> Sequence[Mapping[str, Any]]:
    """Return the sum and number of booked debits from `first` to `last`, both inclusive, by month,
    category and currency."""
    month = func.to_char(Transaction.date, cast("YYYY-MM", Text))
    category = func.coalesce(Transaction.category, cast(_NO_CATEGORY, Text))
    kinds = (Transaction.currency, Transaction.unofficial_currency)
    query = (
        select_transactions(tenant, filters, first, last)
        .where(Transaction.amount > 0, ~Transaction.pending)
        .with_only_columns(
            month.label("month"),
            category.label("category"),
            *kinds,
            func.sum(Transaction.amount).label("amount"),
            func.count().label("transactions"),
        )
        .group_by(month, category, *kinds)
        .order_by(month, category, *kinds)
    )
    return [dict(row) for row in (await session.execute(query)).mappings()]


def select_transactions(
    tenant: str, filters: Mapping[str, Any], first: date | None, last: date | None
) -> Select[Any]:
    """Return a query for the tenant's transactions from `first` to `last`, both inclusive, whose
    columns equal the filters; a None filter is ignored. Raise `Invalid` if there is no such day."""
    query = tenant_rows.filtered(Transaction, tenant, filters)
    if first is not None and last is not None and last < first:
        raise Invalid("last is before first")
    if first is not None:
        query = query.where(Transaction.date >= first)
    if last is not None:
        query = query.where(Transaction.date <= last)
    return query


async def institution_hours(
    session: AsyncSession, tenant: str, institution_id: str, since: datetime
) -> Sequence[InstitutionHour]:
    """Return the hours after `since`, newest first. `institution_id` is the provider's."""
    query = (
        select(InstitutionHour)
        .where(
            InstitutionHour.tenant == tenant,
            InstitutionHour.institution_id == institution_id,
            InstitutionHour.hour > since,
        )
        .order_by(InstitutionHour.hour.desc())
    )
    return (await session.scalars(query)).all()


async def delete_data(session: AsyncSession, item: str) -> None:
    """Delete all synced data of the item, and its syncs."""
    for table in (Transaction, Account, Sync):
        await session.execute(delete(table).where(table.item == item))


async def delete_account(session: AsyncSession, item: str, account_id: str) -> None:
    """Delete an account and its transactions. `account_id` is the provider's."""
    id_ = models.account_id(item, account_id)
    await session.execute(delete(Transaction).where(Transaction.account == id_))
    await session.execute(delete(Account).where(Account.id == id_))


async def count_outcome(
    session: AsyncSession, item: Item, now: datetime, error: str | None
) -> None:
    """Count a sync's outcome at the item's institution, by the hour."""
    if item.institution_id is None:
        return
    hour = now.replace(minute=0, second=0, microsecond=0)
    failed = int(error is not None)
    row = insert(InstitutionHour).values(
        tenant=item.tenant,
        institution_id=item.institution_id,
        hour=hour,
        succeeded=1 - failed,
        failed=failed,
        last_error=error,
    )
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[
                InstitutionHour.tenant, InstitutionHour.institution_id, InstitutionHour.hour,
            ],
            set_={
                "succeeded": InstitutionHour.succeeded + row.excluded.succeeded,
                "failed": InstitutionHour.failed + row.excluded.failed,
                "last_error": func.coalesce(row.excluded.last_error, InstitutionHour.last_error),
            },
        )
    )  # fmt: skip


async def items_to_sync(session: AsyncSession, now: datetime, most: int) -> Sequence[Item]:
    query = (
        select(Item)
        .where(Item.next_sync_at <= now)
        .order_by(Item.next_sync_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(query)).all()


async def lock_running_sync(session: AsyncSession, item: str) -> Sync | None:
    query = select(Sync).where(Sync.item == item, Sync.status == "running").with_for_update()
    return (await session.scalars(query)).one_or_none()


async def record_progress(
    session: AsyncSession, id_: str, lease: str, extend: timedelta, progress: Mapping[str, int]
) -> bool:
    """Record the progress of a running sync and extend its lease. Return whether it goes on: False
    if cancellation was requested, or another worker holds the sync by now."""
    recording = (
        update(Sync)
        .where(Sync.id == id_, Sync.lease == lease, Sync.status == "running")
        .values(lease_until=func.clock_timestamp() + extend, **progress)
        .returning(Sync.cancel_requested)
    )
    cancel = (await session.execute(recording)).scalar_one_or_none()
    return cancel is not None and not cancel


async def items_to_remove(session: AsyncSession, most: int) -> Sequence[Item]:
    """Return items that the provider has not removed yet, in random order."""
    query = select(Item).where(Item.removing_at.is_not(None)).order_by(func.random()).limit(most)
    return (await session.scalars(query)).all()


async def delete_old_syncs(session: AsyncSession, keep: timedelta) -> int:
    old = delete(Sync).where(Sync.finished_at < func.now() - keep).returning(Sync.id)
    return len((await session.execute(old)).all())


async def delete_old_hours(session: AsyncSession, keep: timedelta) -> int:
    old = (
        delete(InstitutionHour)
        .where(InstitutionHour.hour < func.now() - keep)
        .returning(InstitutionHour.hour)
    )
    return len((await session.execute(old)).all())


async def items_by_health(session: AsyncSession) -> Mapping[str, int]:
    query = select(Item.health, func.count()).group_by(Item.health)
    return dict((await session.execute(query)).tuples().all())


async def open_syncs(session: AsyncSession) -> Mapping[str, tuple[int, float]]:
    """Return the number of queued and of running syncs, and the age of the oldest in seconds."""
    age = func.extract("epoch", func.now() - func.min(Sync.created_at))
    query = (
        select(Sync.status, func.count(), age)
        .where(Sync.status.in_(["queued", "running"]))
        .group_by(Sync.status)
    )
    found = await session.execute(query)
    return {status: (count, float(oldest)) for status, count, oldest in found}


async def overdue_syncs(
    session: AsyncSession, now: datetime, older_than: timedelta, most: int
) -> Sequence[Sync]:
    """Return queued syncs that no worker has claimed, and running ones whose worker has stopped."""
    waiting = (Sync.status == "queued") & (Sync.requested_at <= now - older_than)
    dead = (Sync.status == "running") & (Sync.lease_until <= now) & (
        Sync.requested_at <= now - older_than
    )  # fmt: skip
    query = (
        select(Sync)
        .where(waiting | dead)
        .order_by(Sync.requested_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(query)).all()

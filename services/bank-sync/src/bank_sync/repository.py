"""SQL of the service. Rows are locked in one order: items, syncs, accounts, transactions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import events, models
from bank_sync.models import Account, InstitutionHour, Item, Sync, Transaction
from common.db.bulk import equals_any
from common.messaging import outbox


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

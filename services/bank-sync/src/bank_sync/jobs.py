"""The scheduled jobs, for every tenant. A job only enqueues work."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import repository
from bank_sync.models import InstitutionHour, Item, Sync
from bank_sync.row_security import set_tenant
from common.contracts.event import Event
from common.contracts.jobs import RunJob
from common.db import tenant_rows
from common.messaging.outbox import UnitOfWork
from common.resilience import rate_limiter
from common.scheduling.scheduler import Cron, Every, Schedule, enqueue_run

SERVICE = "bank_sync"

_MOST = 1000
_KEEP_SYNCS = timedelta(days=30)
_KEEP_HOURS = timedelta(days=90)


class Jobs:
    """`interval` is that of the searches for due syncs; a sync that was enqueued and did not begin
    within `requeue_after` is enqueued again."""

    def __init__(self, *, interval: timedelta, requeue_after: timedelta) -> None:
        self._interval = interval
        self._requeue_after = requeue_after

    def schedule(self) -> Sequence[Schedule]:
        return (
            Schedule("sweep", Every(self._interval), self.sweep),
            Schedule("overdue-syncs", Every(self._interval), self.overdue_syncs),
            Schedule("removals", Every(timedelta(minutes=10)), removals),
            Schedule("clean-up", Cron("40 3 * * *"), clean_up),
        )

    async def sweep(self, work: UnitOfWork, event: Event[RunJob]) -> str:
        """Items that nobody has spoken of for long are synced: a webhook may have been lost."""
        await set_tenant(work.session, None)
        now = await tenant_rows.database_now(work.session)
        found = await repository.items_to_sync(work.session, now, _MOST)
        for item in found:
            await repository.request_sync(work.session, item, "sweep", now)
            item.next_sync_at = now + timedelta(days=1)
        await _go_on(work.session, event, len(found))
        return f"{len(found)} items to sync"

    async def overdue_syncs(self, work: UnitOfWork, event: Event[RunJob]) -> str:
        """Whose message was lost, or whose worker died, is ordered again."""
        await set_tenant(work.session, None)
        now = await tenant_rows.database_now(work.session)
        found = await repository.overdue_syncs(work.session, now, self._requeue_after, _MOST)
        for sync in found:
            sync.requested_at = now
        syncs = [(sync.tenant, sync.item, sync.id) for sync in found]
        await repository.enqueue_syncs(work.session, syncs, now)
        await _go_on(work.session, event, len(found))
        return f"{len(found)} syncs ordered again"


async def removals(work: UnitOfWork, _: Event[RunJob]) -> str:
    """Items that the provider has not let go of yet: it is asked again."""
    await set_tenant(work.session, None)
    now = await tenant_rows.database_now(work.session)
    query = select(Item).where(Item.removing_at.is_not(None)).order_by(func.random()).limit(_MOST)
    found = (await work.session.scalars(query)).all()
    await repository.tell_removals(work.session, found, now)
    return f"{len(found)} removals ordered"


async def clean_up(work: UnitOfWork, _: Event[RunJob]) -> str:
    """Syncs that are long over, and hours that nobody looks at any more."""
    await set_tenant(work.session, None)
    syncs = await work.session.execute(
        delete(Sync).where(Sync.finished_at < func.now() - _KEEP_SYNCS).returning(Sync.id)
    )
    hours = await work.session.execute(
        delete(InstitutionHour)
        .where(InstitutionHour.hour < func.now() - _KEEP_HOURS)
        .returning(InstitutionHour.hour)
    )
    await rate_limiter.delete_unused(work.session)
    return f"{len(syncs.all())} syncs, {len(hours.all())} hours removed"


async def _go_on(session: AsyncSession, event: Event[RunJob], count: int) -> None:
    if count == _MOST:  # there may be more: not only at the next tick
        await enqueue_run(
            session,
            service=SERVICE,
            tenant=event.tenant,
            job=event.data.job,
            at=await tenant_rows.database_now(session),
            goes_on=event,
        )

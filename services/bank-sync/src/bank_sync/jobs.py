"""Scheduled jobs, for every tenant. A job only enqueues work."""

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
        """Enqueue syncs of items that were not synced for long: a webhook may have been lost."""
        await set_tenant(work.session, None)
        now = await tenant_rows.database_now(work.session)
        found = await repository.items_to_sync(work.session, now, _MOST)
        for item in found:
            await repository.request_sync(work.session, item, "sweep", now)
            item.next_sync_at = now + timedelta(days=1)
        await _go_on(work.session, event, len(found))
        return f"{len(found)} items to sync"

    async def overdue_syncs(self, work: UnitOfWork, event: Event[RunJob]) -> str:
        """Enqueue again each sync whose message was lost or whose worker died."""
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
    """Enqueue again the removal of items that the provider has not removed yet."""
    await set_tenant(work.session, None)
    now = await tenant_rows.database_now(work.session)
    query = select(Item).where(Item.removing_at.is_not(None)).order_by(func.random()).limit(_MOST)
    found = (await work.session.scalars(query)).all()
    await repository.tell_removals(work.session, found, now)
    return f"{len(found)} removals ordered"


async def clean_up(work: UnitOfWork, _: Event[RunJob]) -> str:
    """Delete syncs that ended long ago, old hours of institutions, and unused rate limits."""
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
    if count == _MOST:  # there may be more: continue before the next tick
        await enqueue_run(
            session,
            service=SERVICE,
            tenant=event.tenant,
            job=event.data.job,
            at=await tenant_rows.database_now(session),
            goes_on=event,
        )

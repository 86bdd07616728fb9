"""Scheduled jobs, for every tenant. A job only enqueues work."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from bank_sync import repository
from bank_sync.row_security import set_tenant
from common.contracts.event import Event
from common.contracts.jobs import RunJob
from common.db import tenant_rows
from common.messaging.outbox import UnitOfWork
from common.resilience import rate_limiter
from common.scheduling.scheduler import Cron, Every, Schedule, continue_if_full

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
        await continue_if_full(work.session, SERVICE, event, found, _MOST)
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
        await continue_if_full(work.session, SERVICE, event, found, _MOST)
        return f"{len(found)} syncs ordered again"


async def removals(work: UnitOfWork, _: Event[RunJob]) -> str:
    """Enqueue again the removal of items that the provider has not removed yet."""
    await set_tenant(work.session, None)
    now = await tenant_rows.database_now(work.session)
    found = await repository.items_to_remove(work.session, _MOST)
    await repository.tell_removals(work.session, found, now)
    return f"{len(found)} removals ordered"


async def clean_up(work: UnitOfWork, _: Event[RunJob]) -> str:
    """Delete syncs that ended long ago, old hours of institutions, and unused rate limits."""
    await set_tenant(work.session, None)
    syncs = await repository.delete_old_syncs(work.session, _KEEP_SYNCS)
    hours = await repository.delete_old_hours(work.session, _KEEP_HOURS)
    await rate_limiter.delete_unused(work.session)
    return f"{syncs} syncs, {hours} hours removed"

"""Backlog in a service's database, for the metrics that every worker has."""

from __future__ import annotations

import time

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from common.observability import metrics
from common.scheduling.tables import schedules

_DEAD_ROWS = text("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'outbox'::regclass")
# Autovacuum's latest estimate: counting millions of rows would be a load of its own.
_INBOX = text("SELECT greatest(reltuples, 0) FROM pg_class WHERE oid = 'inbox'::regclass")
_OVERDUE = select(
    schedules.c.name,
    func.greatest(0, func.extract("epoch", func.now() - schedules.c.next_run_at)),
    schedules.c.paused,
    schedules.c.last_outcome,
)


_CLOCK = select(func.extract("epoch", func.clock_timestamp()))


async def measure(session: AsyncSession) -> None:
    theirs = await session.scalar(_CLOCK)
    metrics.clock_ahead_seconds.set(time.time() - float(theirs or 0))
    metrics.outbox_dead_rows.set(await session.scalar(_DEAD_ROWS) or 0)
    metrics.inbox_rows.set(await session.scalar(_INBOX) or 0)
    for name, overdue, paused, outcome in await session.execute(_OVERDUE):
        metrics.job_failing.labels(name).set(outcome == "failed")
        metrics.schedule_overdue_seconds.labels(name).set(0 if paused else float(overdue))

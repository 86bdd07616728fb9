"""Counts now and then what waits in the database, for the metrics: one runs in every worker."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import sqlalchemy.exc
from sqlalchemy import func, select, text

from common import metrics
from common.database import Sessions
from common.logs import get_logger
from common.messaging.connection import describe
from common.messaging.tables import outbox, schedules

log = get_logger(__name__)

_EVERY_SECONDS = 10.0
_MOST = 100_000  # counting more would cost more than it says

_OUTBOX = select(func.count()).select_from(select(outbox.c.position).limit(_MOST).subquery())
# What autovacuum last saw: counting millions of rows would be a load of its own.
_INBOX = text("SELECT greatest(reltuples, 0) FROM pg_class WHERE oid = 'inbox'::regclass")
_OVERDUE = select(
    schedules.c.name,
    func.greatest(0, func.extract("epoch", func.now() - schedules.c.next_run_at)),
    schedules.c.paused,
)


class Census:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        while not self._stop.is_set():
            try:
                await self._count()
            except sqlalchemy.exc.SQLAlchemyError as error:
                log.info("nothing is counted now", error=describe(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _EVERY_SECONDS)

    async def _count(self) -> None:
        async with self._sessions.begin() as session:
            metrics.outbox_events.set(await session.scalar(_OUTBOX) or 0)
            metrics.inbox_rows.set(await session.scalar(_INBOX) or 0)
            for name, overdue, paused in await session.execute(_OVERDUE):
                metrics.schedule_overdue_seconds.labels(name).set(0 if paused else float(overdue))

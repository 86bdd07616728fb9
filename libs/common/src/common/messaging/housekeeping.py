"""Removes inbox rows that nothing can ask for any more, so that the table stays small.

The outbox needs none: the relay removes its rows as they are confirmed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import sqlalchemy.exc
from sqlalchemy import delete, func, select, tuple_

from common import metrics
from common.database import Sessions
from common.logs import get_logger
from common.messaging.connection import describe
from common.messaging.tables import inbox

log = get_logger(__name__)

_EVERY_SECONDS = 600.0
_BATCH = 5_000


class Housekeeper:
    """One runs in every worker; they share the rows by SKIP LOCKED.

    `keep_days` must be more than the journal's age: what can be replayed must still be known.
    """

    def __init__(self, sessions: Sessions, *, keep_days: int) -> None:
        self._sessions = sessions
        self._keep = timedelta(days=keep_days)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        while not self._stop.is_set():
            try:
                removed = await self._remove_batch()
            except sqlalchemy.exc.SQLAlchemyError as error:
                log.warning("the inbox can't be cleaned", error=describe(error))
                removed = 0
            metrics.inbox_removed.inc(removed)
            if removed < _BATCH:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _EVERY_SECONDS)

    async def _remove_batch(self) -> int:
        key = tuple_(inbox.c.queue, inbox.c.source, inbox.c.id)
        old = (
            select(inbox.c.queue, inbox.c.source, inbox.c.id)
            .where(inbox.c.received_at < func.now() - self._keep)
            .limit(_BATCH)
            .with_for_update(skip_locked=True)
        )
        async with self._sessions.begin() as session:
            removed = await session.execute(
                delete(inbox).where(key.in_(old)).returning(inbox.c.queue)
            )
            return len(removed.all())

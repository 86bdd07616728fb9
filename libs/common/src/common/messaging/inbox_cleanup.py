"""Removal of inbox rows that no replay can need any more, which keeps the table small.

The outbox needs none: the relay removes its rows as they are confirmed.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy.exc
from sqlalchemy import delete, func, select, tuple_

from common.background import PeriodicTask
from common.db.database import Sessions
from common.errors import describe
from common.messaging.tables import inbox
from common.observability import metrics
from common.observability.logging import get_logger

log = get_logger(__name__)

_EVERY_SECONDS = 600.0
_BATCH = 5_000


class Housekeeper(PeriodicTask):
    """Task that deletes old inbox rows. One runs in every worker; SKIP LOCKED divides the rows.

    `keep_days` must exceed the journal's age: a replayed event must still be recognised as a
    duplicate.
    """

    def __init__(self, sessions: Sessions, *, keep_days: int) -> None:
        super().__init__(_EVERY_SECONDS)
        self._sessions = sessions
        self._keep = timedelta(days=keep_days)

    async def step(self) -> bool:
        try:
            removed = await self._remove_batch()
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("inbox_cleanup_failed", error=describe(error))
            removed = 0
        metrics.inbox_removed.inc(removed)
        return removed >= _BATCH

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

"""Publishes the outbox. One runs in every worker; they share the rows by SKIP LOCKED."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import psycopg
import sqlalchemy.exc
from sqlalchemy import delete, func, select

from common import metrics
from common.arrays import is_one_of
from common.database import CONNECT_ARGUMENTS, Connection, Sessions
from common.logs import get_logger
from common.messaging.connection import describe
from common.messaging.outbox import NOTIFY_CHANNEL
from common.messaging.publisher import Publisher
from common.messaging.tables import outbox

log = get_logger(__name__)

_BATCH = 500
_POLL_SECONDS = 1.0  # a NOTIFY can be missed while the listening connection is down
_LISTEN_SECONDS = 15.0  # then asks whether anyone is still there; less than an answer may take
_PAUSE_AFTER_FAILURE = 0.5


class Relay:
    """`database_url` is for a connection of its own, which listens."""

    def __init__(self, sessions: Sessions, publisher: Publisher, database_url: str) -> None:
        self._sessions = sessions
        self._publisher = publisher
        self._database_url = database_url.replace("+psycopg", "")
        self._wake = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Until stopped; then once more, so that what was committed last leaves with us."""
        listener = asyncio.create_task(self._listen(), name="outbox-listener")
        try:
            while not self._stopping:
                self._wake.clear()
                if not await self._drain():
                    await asyncio.sleep(_PAUSE_AFTER_FAILURE)
                    continue
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _POLL_SECONDS)
            await self._drain()
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _drain(self) -> bool:
        """Publish until the outbox is empty; False when something stood in the way."""
        try:
            while True:
                taken, published = await self.publish_batch()
                if published < taken:
                    return False
                if taken < _BATCH:
                    return True
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("the outbox can't be read", error=describe(error))
            return False

    async def publish_batch(self) -> tuple[int, int]:
        """Publish up to a batch, then remove what was confirmed.

        A crash in between publishes again; the consumers' inboxes make that harmless.
        """
        async with self._sessions.begin() as session:
            rows = (
                await session.execute(
                    select(outbox)
                    .order_by(outbox.c.position)
                    .limit(_BATCH)
                    .with_for_update(skip_locked=True)
                )
            ).all()
            self._measure(await session.scalar(_OLDEST) if rows else None)
            if not rows:
                return 0, 0
            outcomes = await self._publisher.publish_all(
                [(row.exchange, row.routing_key, row.body) for row in rows]
            )
            confirmed = [
                row.position for row, outcome in zip(rows, outcomes, strict=True) if outcome is None
            ]
            await session.execute(delete(outbox).where(is_one_of(outbox.c.position, confirmed)))
        metrics.relayed.inc(len(confirmed))
        failure = next((outcome for outcome in outcomes if outcome is not None), None)
        if failure is not None:
            log.warning("the outbox waits", rows=len(rows) - len(confirmed), error=str(failure))
        return len(rows), len(confirmed)

    def _measure(self, oldest_seconds: float | None) -> None:
        metrics.outbox_oldest_seconds.set(oldest_seconds or 0)

    async def _listen(self) -> None:
        while True:
            try:
                connection = await Connection.connect(
                    self._database_url,
                    autocommit=True,
                    **CONNECT_ARGUMENTS,  # type: ignore[arg-type]
                )
                async with connection:
                    await connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
                    while True:
                        async for _ in connection.notifies(timeout=_LISTEN_SECONDS):
                            self._wake.set()
                        await connection.execute("SELECT true")  # or silence would mean nothing
            except psycopg.Error as error:
                log.warning("not listening to the outbox, polling it", error=describe(error))
            await asyncio.sleep(_PAUSE_AFTER_FAILURE)


_OLDEST = select(func.extract("epoch", func.now() - func.min(outbox.c.created_at)))

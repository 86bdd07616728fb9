"""Outbox relay. One runs in every worker; SKIP LOCKED divides the rows."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy.exc
from aiormq.exceptions import ChannelPreconditionFailed
from sqlalchemy import Select, case, delete, func, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from common.db.bulk import equals_any
from common.db.database import Sessions, connect_directly, sessions_of
from common.errors import Unavailable, describe
from common.messaging.backoff import REJECTIONS, DestinationBackoff, Outcome, separate_refused
from common.messaging.outbox import NOTIFY_CHANNEL
from common.messaging.publisher import BATCH_BYTES, Impossible, Publisher
from common.messaging.tables import outbox
from common.observability import metrics
from common.observability.logging import get_logger

log = get_logger(__name__)

_BATCH = 500
_POLL_SECONDS = 1.0  # a NOTIFY can be missed while the listening connection is down
_LISTEN_SECONDS = 15.0  # then checks the connection; less than a response may take
_PAUSE_AFTER_FAILURE = 0.5
_SETTLED_SECONDS = 30.0
_FULL_SCAN_SECONDS = 10.0
_FULL_SCAN_SHARE = 0.05


_DESTINATION = tuple_(outbox.c.exchange, outbox.c.routing_key)


@dataclass(frozen=True)
class Batch:
    """Numbers of rows read and published.

    `more` is whether further rows may be there, `away` whether the broker is unreachable, so that
    an immediate retry is useless.
    """

    taken: int = 0
    published: int = 0
    more: bool = False
    away: bool = False


class Relay:
    """Publisher of the outbox.

    A full queue delays no other rows, and a message that no broker accepts is set aside.
    Transactions are assumed to commit within `settled` seconds; a full scan finds later ones.
    """

    def __init__(
        self, engine: AsyncEngine, publisher: Publisher, *, settled: float = _SETTLED_SECONDS
    ) -> None:
        self._engine = engine
        self._sessions: Sessions = sessions_of(engine)
        self._publisher = publisher
        self._backoff = DestinationBackoff("outbox")
        self._scan = _Scan(settled)
        self._wake = asyncio.Event()
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Publish until stopped, then once more for the last committed rows."""
        listener = asyncio.create_task(self._listen(), name="outbox-listener")
        try:
            while not self._stopping:
                self._wake.clear()
                if not await self.drain():
                    await asyncio.sleep(_PAUSE_AFTER_FAILURE)
                    continue
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _POLL_SECONDS)
            await self.drain()
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def drain(self) -> bool:
        """Publish until only blocked rows are left; return False if the broker or database
        failed."""
        try:
            await self._probe()
            while (batch := await self.publish_batch()).more and not batch.away:
                pass
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("outbox_read_failed", error=describe(error))
            return False
        return not batch.away

    async def publish_batch(self) -> Batch:
        """Publish up to one batch, then remove the confirmed rows.

        A crash in between publishes them again; the consumers' inboxes make that harmless.
        """
        full = self._scan.begin()
        async with self._sessions.begin() as session:
            if full:
                await _count(session)
            beyond = outbox.c.position > self._scan.floor
            others = _DESTINATION.not_in(self._backoff.blocked())
            await session.execute(_BY_INDEX)
            rows = (await session.execute(_select(_BATCH, beyond, others))).all()
            self._scan.end()
            metrics.outbox_oldest_seconds.set(
                max(float(rows[0].age) if rows else 0.0, self._backoff.oldest_seconds)
            )
            batch = await self._publish(session, rows)
        if full and batch.more:  # its remaining rows may lie before the floor, too
            self._scan.restart()
        return batch

    async def _probe(self) -> None:
        """Try a single row for each destination whose backoff has passed."""
        if not (due := self._backoff.due()):
            return
        async with self._sessions.begin() as session:
            rows = []
            for destination in due:
                of_it = destination == _DESTINATION
                rows += (await session.execute(_select(1, of_it))).all()
            await self._publish(session, rows)
        if self._backoff.release(due):
            self._scan.restart()

    async def _publish(self, session: AsyncSession, rows: Sequence[Any]) -> Batch:
        if not rows:
            return Batch()
        outcomes = await self._outcomes(rows)
        confirmed, away = [], False
        for row, outcome in zip(rows, outcomes, strict=True):
            destination = (row.exchange, row.routing_key)
            if outcome is None:
                confirmed.append(row.position)
            elif isinstance(outcome, Impossible):
                await _set_aside(session, row, outcome)
            elif isinstance(outcome, REJECTIONS):
                self._backoff.rejected(destination, outcome, age=float(row.age))
            else:
                self._backoff.not_tried(destination)
                away = True
        gone = equals_any(outbox.c.position, confirmed)
        await session.execute(delete(outbox).where(gone))
        metrics.relayed.inc(len(confirmed))
        if away:
            error = next(each for each in outcomes if each is not None)
            log.warning("outbox_publish_blocked", rows=len(rows) - len(confirmed), error=str(error))
        if len(confirmed) == len(rows):
            self._scan.published(rows[-1].position)
        more = rows[0].found == _BATCH or rows[0].found > len(rows)
        return Batch(len(rows), len(confirmed), more, away)

    async def _outcomes(self, rows: Sequence[Any]) -> list[Outcome]:
        messages = [(row.exchange, row.routing_key, row.body) for row in rows]
        outcomes = await self._publisher.publish_all(messages)
        await separate_refused(
            [(row.exchange, row.routing_key) for row in rows],
            outcomes,
            lambda some: self._publisher.publish_all([messages[number] for number in some]),
        )
        if any(map(_closed_the_channel, outcomes)):
            # A broker with a lower limit than ours only reports that one of them is too large.
            largest = max(range(len(rows)), key=lambda number: len(rows[number].body))
            (alone,) = await self._publisher.publish_all([messages[largest]])
            again = alone is not None and _closed_the_channel(alone)
            outcomes[largest] = Impossible(str(alone)) if again else alone
        return outcomes

    async def _listen(self) -> None:
        while True:
            try:
                async with await connect_directly(self._engine) as connection:
                    await connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
                    while True:
                        async for _ in connection.notifies(timeout=_LISTEN_SECONDS):
                            self._wake.set()
                        await connection.execute("SELECT true")  # otherwise silence proves nothing
            except psycopg.Error as error:
                log.warning("outbox_listen_failed_polling", error=describe(error))
            await asyncio.sleep(_PAUSE_AFTER_FAILURE)


class _Scan:
    """Start position of the next outbox scan.

    While a snapshot is held, for instance by a backup, deleted rows stay in the table and its
    index, and skipping them costs more with each scan. So most scans start after the rows that were
    published half a minute ago. A full scan, from the first row, finds rows that longer
    transactions committed or that other workers could not publish. It runs every ten seconds, less
    often when it is expensive.
    """

    def __init__(self, settled: float) -> None:
        self._settles_after = settled
        self._batches: deque[tuple[float, int]] = deque()
        self._settled = 0
        self._full_at = 0.0
        self._full = True
        self._began = 0.0

    def begin(self) -> bool:
        """Start a scan; return whether it is a full one."""
        self._began = time.monotonic()
        self._full = self._began >= self._full_at
        while self._batches and self._batches[0][0] <= self._began - self._settles_after:
            self._settled = max(self._settled, self._batches.popleft()[1])
        return self._full

    @property
    def floor(self) -> int:
        return 0 if self._full else self._settled

    def end(self) -> None:
        if self._full:
            now = time.monotonic()
            cost = (now - self._began) / _FULL_SCAN_SHARE
            self._full_at = now + max(_FULL_SCAN_SECONDS, cost)

    def published(self, position: int) -> None:
        """Record that every visible row up to this position is published."""
        self._batches.append((time.monotonic(), position))

    def restart(self) -> None:
        """Make the next scan a full one."""
        self._full_at = 0.0


# A table that was just emptied looks small to the planner, however many dead rows it has.
_BY_INDEX = text("SET LOCAL enable_seqscan = off")


def _select(limit: int, *conditions: Any) -> Select[Any]:
    """Lock the oldest rows and return as many as fit into a batch, with their `age` in seconds;
    `found` is the number locked."""
    some = (
        select(
            outbox.c.position,
            outbox.c.exchange,
            outbox.c.routing_key,
            outbox.c.body,
            func.octet_length(outbox.c.body).label("size"),
            func.extract("epoch", func.now() - outbox.c.created_at).label("age"),
        )
        .where(outbox.c.set_aside.is_(None), *conditions)
        .order_by(outbox.c.position)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("some")
    )
    up_to = func.sum(some.c.size).over(order_by=some.c.position)
    sized = select(some, up_to.label("up_to"), func.count().over().label("found")).subquery()
    return (
        select(sized).where(sized.c.up_to - sized.c.size < BATCH_BYTES).order_by(sized.c.position)
    )


async def _count(session: AsyncSession) -> None:
    waiting = func.count(case((outbox.c.set_aside.is_(None), 1)))
    row = (await session.execute(select(waiting, func.count(outbox.c.set_aside)))).one()
    metrics.outbox_events.set(row[0])
    metrics.outbox_set_aside.set(row[1])


async def _set_aside(session: AsyncSession, row: Any, error: Unavailable) -> None:
    log.error(
        "outbox_row_set_aside",
        position=row.position,
        exchange=row.exchange,
        routing_key=row.routing_key[:255],
        error=str(error),
    )
    await session.execute(
        update(outbox).where(outbox.c.position == row.position).values(set_aside=str(error))
    )
    metrics.outbox_set_aside.inc()


def _closed_the_channel(outcome: Outcome) -> bool:
    return outcome is not None and isinstance(outcome.__cause__, ChannelPreconditionFailed)

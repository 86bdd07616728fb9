"""Keeps an index of the journal, so that it can be searched. The events stay in the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from common.database import Sessions
from common.logs import get_logger
from common.messaging.connection import Broker, describe
from common.messaging.journal import Entry, follow
from common.messaging.publisher import BATCH_BYTES
from operations.letters import moment, word
from operations.models import JournalEntry, JournalMark

log = get_logger(__name__)

_BATCH = 500
_AHEAD = 50
_LINGER_SECONDS = 0.2
_PAUSE_SECONDS = 2.0
_NOT_KEPT = frozenset({"replay.handled"})  # what a replay's own items say


class Indexer:
    """One runs in every worker. All read everything; who is later finds it written."""

    def __init__(self, sessions: Sessions, broker: Broker) -> None:
        self._sessions = sessions
        self._broker = broker
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        while not self._stop.is_set():
            following = asyncio.create_task(self._follow())
            await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
            following.cancel()
            with suppress(asyncio.CancelledError):
                try:
                    await following
                except Exception as error:  # noqa: BLE001 - an outage or a bug: it goes on later
                    log.warning("the journal can't be indexed now", error=describe(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _PAUSE_SECONDS)

    async def _follow(self) -> None:
        mark = await self._mark()
        arrived: asyncio.Queue[Entry] = asyncio.Queue(maxsize=_AHEAD)

        async def read() -> None:
            entries = follow(self._broker, start=mark + 1 if mark >= 0 else "first")
            async with aclosing(entries):
                async for entry in entries:
                    await arrived.put(entry)

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            while True:
                batch = [await arrived.get()]
                size = len(batch[0].body)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LINGER_SECONDS):
                        while len(batch) < _BATCH and size < BATCH_BYTES:
                            batch.append(await arrived.get())
                            size += len(batch[-1].body)
                await self._write(batch)

    async def _mark(self) -> int:
        async with self._sessions.begin() as session:
            first = insert(JournalMark).values(id=1, offset=-1).on_conflict_do_nothing()
            await session.execute(first)
            found = await session.scalar(select(JournalMark.offset).where(JournalMark.id == 1))
            return -1 if found is None else found

    async def _write(self, batch: Sequence[Entry]) -> None:
        async with self._sessions.begin() as session:
            query = select(JournalMark).where(JournalMark.id == 1).with_for_update()
            mark = (await session.scalars(query)).one()
            new = [entry for entry in batch if entry.offset > mark.offset]
            if not new:
                return
            if mark.offset >= 0 and (gap := new[0].offset - mark.offset - 1) > 0:
                log.error("the journal forgot events before they were indexed", count=gap)
                mark.missed += gap
            rows = [row for entry in new if (row := _row(entry)) is not None]
            if rows:
                await session.execute(insert(JournalEntry).on_conflict_do_nothing(), rows)
            mark.offset = new[-1].offset


def _row(entry: Entry) -> dict[str, Any] | None:
    """None for what is no event, or of no interest."""
    if entry.routing_key in _NOT_KEPT:
        return None
    try:
        event = json.loads(entry.body)
        row = {
            "offset": entry.offset,
            "exchange": entry.exchange,
            "type": word(event, "type"),
            "source": word(event, "source"),
            "event_id": word(event, "id"),
            "tenant": word(event, "tenant"),
            "subject": word(event, "subject"),
            "correlation_id": word(event, "correlationid"),
            "time": moment(event.get("time")),
            "recorded_at": moment(event.get("recordedtime")),
        }
    except (ValueError, AttributeError, RecursionError):
        return None
    if None in row.values():
        return None
    return row | {"causation_id": word(event, "causationid")}

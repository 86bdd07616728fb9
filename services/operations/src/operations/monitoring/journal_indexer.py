"""Indexes the journal so that it can be searched. The events stay in the stream."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from common.db.database import Sessions
from common.errors import describe
from common.messaging.connection import BrokerConnection
from common.messaging.journal import Entry, follow
from common.messaging.publisher import BATCH_BYTES
from common.observability.logging import get_logger
from common.observability.redaction import Redactor
from operations.dead_letters.parser import text_field, timestamp_field
from operations.repository import monitoring as repository

log = get_logger(__name__)

_BATCH = 500
_AHEAD = 50
_LINGER_SECONDS = 0.2
_PAUSE_SECONDS = 2.0
_CURRENCY = re.compile("[A-Z]{3}")
_STATUS = re.compile("[a-z_]{1,40}")
_ACCOUNT = re.compile(r"acct_[A-Za-z0-9]{1,80}")  # https://docs.stripe.com/api/accounts/object
_MASK = Redactor()
_NOT_KEPT = frozenset({"replay.items_completed"})  # the replay's items already hold this


class JournalIndexer:
    """Runs in every worker. All read the complete journal; rows already written are skipped."""

    def __init__(self, sessions: Sessions, broker: BrokerConnection) -> None:
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
                except Exception as error:  # noqa: BLE001 - it continues after the outage or the mistake
                    log.warning("journal_index_failed", error=describe(error))
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
            return await repository.start_journal(session)

    async def _write(self, batch: Sequence[Entry]) -> None:
        async with self._sessions.begin() as session:
            mark = await repository.lock_journal(session)
            new = [entry for entry in batch if entry.offset > mark.offset]
            if not new:
                return
            if mark.offset >= 0 and (gap := new[0].offset - mark.offset - 1) > 0:
                log.error("journal_events_lost_before_index", count=gap)
                mark.missed += gap
            rows = [row for entry in new if (row := _row(entry)) is not None]
            if rows:
                await repository.add_to_journal(session, rows)
            mark.offset = new[-1].offset


def _row(entry: Entry) -> dict[str, Any] | None:
    """Return the index row; None for messages that are not events, or that are not indexed."""
    if entry.routing_key in _NOT_KEPT:
        return None
    try:
        event = json.loads(entry.body)
        row = {
            "offset": entry.offset,
            "exchange": entry.exchange,
            "type": text_field(event, "type"),
            "source": text_field(event, "source"),
            "event_id": text_field(event, "id"),
            "tenant": text_field(event, "tenant"),
            "subject": text_field(event, "subject"),
            "correlation_id": text_field(event, "correlationid"),
            "time": timestamp_field(event.get("time")),
            "recorded_at": timestamp_field(event.get("recordedtime")),
        }
    except (ValueError, AttributeError, RecursionError):
        return None
    if None in row.values():
        return None
    return row | {
        "causation_id": text_field(event, "causationid"),
        "summary": _summary(event.get("data")),
    }


def _summary(data: Any) -> str | None:
    """Return the event's status, its amount in minor units, whose account it belongs to at the
    provider, and why it has no effect, as far as it contains them. The broker may hold what is no
    event of ours: a part that does not look as it should may be personal data, and is left out. The
    reason is free text, so the summary is masked as well."""
    if not isinstance(data, dict):
        return None
    amount = data.get("amount_refunded", data.get("amount"))
    currency, body = _matching(_CURRENCY, data, "currency"), data.get("body")
    account = _matching(_ACCOUNT, body, "account") if isinstance(body, dict) else None
    parts = (
        _matching(_STATUS, data, "status"),
        f"{amount} {currency}" if isinstance(amount, int) and currency else None,
        f"account {account}" if account else None,
        text_field(data, "not_served"),
    )
    return _MASK(", ".join(filter(None, parts))) or None


def _matching(pattern: re.Pattern[str], data: Mapping[str, Any], name: str) -> str | None:
    found = text_field(data, name)
    return found if found is not None and pattern.fullmatch(found) else None

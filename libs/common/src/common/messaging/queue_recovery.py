"""Refill of a deleted queue with the events that its service has not processed.

The process that declares a missing queue although a journal exists publishes a refill request. The
request travels like a retry, so it survives whatever a message survives. The consumer that receives
it copies from the journal every event that is bound to the queue and not in the inbox.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from common.contracts.retry_ladder import RetryDelay, RetryLadder
from common.contracts.topology import JOURNAL_DAYS, REFILLS, Queue
from common.db.database import Sessions
from common.messaging import inbox
from common.messaging.connection import BrokerConnection
from common.messaging.journal import Entry, read_to_now
from common.messaging.publisher import BATCH_BYTES, Publisher
from common.observability import metrics
from common.observability.logging import get_logger

log = get_logger(__name__)

ORDER: Final = "x-paybus-refill"

_BATCH = 500
# A message must not be held longer than the broker's consumer timeout (30 minutes).
_LONGEST_SECONDS = 300


def recovery_headers(offset: int | None = None) -> dict[str, Any]:
    """Return the headers of a refill request; its body is empty. `offset` is where to resume in the
    journal."""
    return {ORDER: -1 if offset is None else offset}


def recovery_delay(ladder: RetryLadder) -> RetryDelay:
    """Return the delay of a refill request: enough time to declare the queue."""
    return ladder.at_least(5)


def is_recovery(headers: Mapping[str, Any]) -> bool:
    return ORDER in headers


async def recover_queue(
    queue: Queue,
    headers: Mapping[str, Any],
    *,
    broker: BrokerConnection,
    publisher: Publisher,
    sessions: Sessions,
) -> None:
    """Execute a refill request. The inbox ignores events that arrive twice because of it.

    Raise `Unavailable` when broker, journal or database are unreachable; the call may then be
    repeated.
    """
    offset = int(headers[ORDER])
    # The declaring process may not have bound the queue yet: events published after the journal was
    # read and before that would be missed.
    await broker.declare()
    started = time.monotonic()
    # A stream deletes complete segments, so it may contain events that the inbox no longer has.
    oldest = datetime.now(UTC) - timedelta(days=JOURNAL_DAYS)
    copied = size = 0
    batch: list[Entry] = []
    log.warning("queue_recovery_started", queue=queue.name, offset=offset)
    async for entry in read_to_now(broker, publisher, start=oldest if offset < 0 else offset):
        if queue.takes(entry.exchange, entry.routing_key) and not _older(entry.body, oldest):
            batch.append(entry)
            size += len(entry.body)
        if len(batch) == _BATCH or size > BATCH_BYTES:
            copied += await _copy(queue, batch, publisher, sessions)
            batch, size = [], 0
        if time.monotonic() - started > _LONGEST_SECONDS:
            await publisher.publish(
                REFILLS, queue.name, b"", headers=recovery_headers(entry.offset + 1)
            )
            break
    copied += await _copy(queue, batch, publisher, sessions)
    metrics.refilled.labels(queue.name).inc(copied)
    log.warning("queue_recovered", queue=queue.name, events=copied)


async def _copy(
    queue: Queue, entries: Sequence[Entry], publisher: Publisher, sessions: Sessions
) -> int:
    keys = [_key(entry.body) for entry in entries]
    async with sessions.begin() as session:
        known = await inbox.already_processed(
            session, queue.name, [key for key in keys if key is not None]
        )
    missing = [entry for entry, key in zip(entries, keys, strict=True) if key not in known]
    for entry in missing:
        await publisher.publish(REFILLS, queue.name, entry.body)
    return len(missing)


def _older(body: bytes, oldest: datetime) -> bool:
    try:
        return datetime.fromisoformat(json.loads(body)["recordedtime"]) < oldest
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _key(body: bytes) -> tuple[str, str] | None:
    """Return (source, id) of an event; None for any other message, which is copied unchanged."""
    try:
        event = json.loads(body)
        return str(event["source"]), str(event["id"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None

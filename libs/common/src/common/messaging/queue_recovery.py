"""A queue that was deleted is filled again with what its service has not taken in.

Whoever declares a queue that is missing, although there is a journal, leaves an order for it. The
order travels like a retry, so it survives everything that a message survives, and the consumer
that gets it copies from the journal whatever is bound to the queue and not in the inbox.
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
# One message must not be held for longer than the broker's consumer time-out (30 minutes).
_LONGEST_SECONDS = 300


def recovery_headers(offset: int | None = None) -> dict[str, Any]:
    """The headers of an order; the body is empty. `offset` is where in the journal to go on."""
    return {ORDER: -1 if offset is None else offset}


def recovery_delay(ladder: RetryLadder) -> RetryDelay:
    """Where an order waits: long enough for the queue to be declared meanwhile."""
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
    """Carry out an order. What arrives twice by this is a duplicate to the inbox.

    Raises `Unavailable` when broker, journal or database are away; it may then be run again.
    """
    offset = int(headers[ORDER])
    # Whoever declares the queue may not have bound it yet: what comes after the journal was read
    # and before that would be missed.
    await broker.declare()
    started = time.monotonic()
    # A stream forgets by whole segments, so it may hold what the inbox has forgotten already.
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
    """(source, id) of an event; None for what is none, which is copied as it is."""
    try:
        event = json.loads(body)
        return str(event["source"]), str(event["id"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None

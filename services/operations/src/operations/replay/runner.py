"""Sends the messages of replays. Any number of workers may run; one at a time runs a replay.

Messages are marked as `sending` before they are published and stay so until their outcome is
reported. If a worker dies, the worker that takes the replay over reads from the stream `replays`,
which gets a copy of every publish, which of them were sent: none is sent twice, none is lost. (A
worker that is delayed between mark and publish for longer than its lease may still send some; their
consumers discard those as duplicates.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.topology import REPLAYS
from common.db.database import Sessions
from common.errors import describe
from common.messaging import replay_marker as mark
from common.messaging.connection import BrokerConnection
from common.messaging.journal import read_to_now
from common.messaging.publisher import BATCH_BYTES, Publisher
from common.observability.logging import get_logger
from common.security.encryption import SecretBox
from operations import metrics
from operations.domain import ItemState, ReplayState
from operations.models import Replay
from operations.replay import planner
from operations.replay.journal_window import JournalWindow
from operations.repository import replays as repository

log = get_logger(__name__)

_BATCH = 500
_IDLE_SECONDS = 0.5
_BUSY_SECONDS = 0.05
_AT_ONCE = 8
_DEAD = "it is a dead letter of this queue: replay that, or leave it"
_AFTER_FAILURE = timedelta(seconds=3)
# The maximum difference between the clocks of two workers and the broker.
_CLOCKS_DIFFER = timedelta(minutes=1)


@dataclass(frozen=True)
class _Message:
    item: str
    position: int
    queue: str
    body: bytes
    headers: dict[str, Any]


class _Lost(Exception):
    """Another worker holds the replay now, or an operator paused or cancelled it."""


class ReplayRunner:
    """Runs several replays concurrently. `lease` is how long a worker may be silent before another
    takes its replays over."""

    def __init__(
        self,
        sessions: Sessions,
        broker: BrokerConnection,
        publisher: Publisher,
        vault: SecretBox,
        *,
        lease: timedelta,
    ) -> None:
        self._sessions = sessions
        self._vault = vault
        self._broker = broker
        self._publisher = publisher
        self._lease = lease
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        running: set[asyncio.Task[None]] = set()
        while not self._stop.is_set():
            try:
                found = await self._claim_replay() if len(running) < _AT_ONCE else None
                if found is not None:
                    task = asyncio.create_task(self._run(*found))
                    running.add(task)
                    task.add_done_callback(running.discard)
                    continue
            except Exception as error:  # noqa: BLE001 - the replays stay queued
                log.warning("replay_claim_failed", error=describe(error))
            await self._pause(_IDLE_SECONDS)
        await asyncio.gather(*running)

    async def _claim_replay(self) -> tuple[str, str] | None:
        """Lease the oldest replay that no worker runs; return its id and the lease. Paused and
        cancelled ones count too if a worker died before it recorded what it had sent."""
        lease = uuid4().hex
        async with self._sessions.begin() as session:
            id_ = await repository.claim(session, lease, self._lease)
        return (id_, lease) if id_ is not None else None

    async def _run(self, id_: str, lease: str) -> None:
        log.info("replay_started", replay=id_)
        try:
            await self._prepare(id_, lease)
            await self._resolve(id_, lease)
            confirmed = None
            while not self._stop.is_set():
                confirmed, over = await self._step(id_, lease, confirmed)
                if over:
                    log.info("replay_completed", replay=id_)
                    return
        except _Lost:
            log.info("replay_lease_not_held", replay=id_)
        except Exception as error:  # noqa: BLE001 - the replay stays queued
            log.warning("replay_interrupted", replay=id_, error=describe(error))
            with suppress(Exception):
                await self._release(id_, lease, describe(error), after=_AFTER_FAILURE)
        finally:
            with suppress(Exception):  # then the lease expires
                await self._release(id_, lease)

    async def _step(self, id_: str, lease: str, confirmed: int | None) -> tuple[int | None, bool]:
        """Send as many messages as allowed now. Returns the position up to which the broker has
        confirmed all messages, for the next step to write, and whether the replay is over."""
        started = time.monotonic()
        async with self._sessions.begin() as session:
            replay = await self._hold(session, id_, lease)
            if replay.state != ReplayState.RUNNING:
                raise _Lost
            replay.error = None
            if confirmed is not None:
                replay.confirmed_position = confirmed
            waiting, flying = await repository.remaining(session, id_)
            if not waiting and not flying:
                replay.state, replay.finished_at = ReplayState.DONE, func.now()
                return confirmed, True
            rate, most = replay.rate, min(_BATCH, replay.concurrency - flying)
            if rate is not None:
                most = min(most, max(1, rate // 10))
            messages = await _claim(session, id_, most, self._vault) if waiting and most > 0 else []
        if messages:
            await self._send(messages)
            confirmed = messages[-1].position
        enough = len(messages) / rate if rate is not None else 0.0
        if not messages:
            enough = _BUSY_SECONDS
        await self._pause(max(0.0, enough - (time.monotonic() - started)))
        return confirmed, False

    async def _hold(self, session: AsyncSession, id_: str, lease: str) -> Replay:
        """Lock the replay and renew its lease. Raises `_Lost`."""
        replay = await repository.lock_leased(session, id_, lease, self._lease)
        if replay is None:
            raise _Lost
        return replay

    async def _send(self, messages: Sequence[_Message]) -> None:
        failures = await self._publisher.publish_all(
            [(REPLAYS, each.queue, each.body) for each in messages],
            headers=[each.headers for each in messages],
        )
        failed = [each for each in failures if each is not None]
        metrics.replayed.inc(len(messages) - len(failed))
        if failed:
            raise failed[0]  # the stream knows which of them were sent nevertheless

    async def _prepare(self, id_: str, lease: str) -> None:
        """Write the replay's items if it is a window of the journal."""
        async with self._sessions.begin() as session:
            replay = await self._hold(session, id_, lease)
            if replay.state != ReplayState.PREPARING:
                return
            window = JournalWindow.model_validate(replay.journal)
        batch: list[dict[str, Any]] = []

        async def write(state: ReplayState) -> None:
            async with self._sessions.begin() as session:
                replay = await self._hold(session, id_, lease)
                if replay.state != ReplayState.PREPARING:
                    raise _Lost
                if batch:
                    rows = await _without_dead_letters(session, batch)
                    await repository.add_items(session, rows)
                replay.state = state
            batch.clear()

        renewed, size = time.monotonic(), 0
        entries = read_to_now(self._broker, self._publisher, start=window.since)
        async with aclosing(entries):
            async for entry in entries:
                renewed = await self._renew(id_, lease, renewed)
                if window.has(entry):
                    batch.append(window.item(id_, entry, self._vault))
                    size += len(entry.body)
                if len(batch) == _BATCH or size > BATCH_BYTES:
                    size = 0
                    await write(ReplayState.PREPARING)
        await write(ReplayState.RUNNING)

    async def _resolve(self, id_: str, lease: str) -> None:
        """Find out which messages marked as `sending` by a failed worker were sent."""
        async with self._sessions.begin() as session:
            replay = await self._hold(session, id_, lease)
            confirmed = replay.confirmed_position
            since = await repository.unknown_since(session, replay)
        if since is None:
            return
        sent: set[str] = set()
        start, renewed = since - _CLOCKS_DIFFER, time.monotonic()
        entries = read_to_now(self._broker, self._publisher, start=start, stream=REPLAYS)
        async with aclosing(entries):
            async for entry in entries:
                if (item := mark.replay_item_of(entry.headers)) is not None:
                    sent.add(item)
                renewed = await self._renew(id_, lease, renewed)
        async with self._sessions.begin() as session:
            replay = await self._hold(session, id_, lease)
            await repository.resolve_unknown(session, id_, confirmed, sorted(sent))
            if replay.state == ReplayState.CANCELLED:
                await planner.release_items(session, id_)

    async def _renew(self, id_: str, lease: str, renewed: float) -> float:
        """Renew the lease if a third of it has passed. Raises `_Lost`."""
        if time.monotonic() - renewed < self._lease.total_seconds() / 3:
            return renewed
        async with self._sessions.begin() as session:
            await self._hold(session, id_, lease)
        return time.monotonic()

    async def _release(
        self, id_: str, lease: str, error: str | None = None, *, after: timedelta = timedelta()
    ) -> None:
        """Release the lease; any worker may take the replay after the interval `after`."""
        async with self._sessions.begin() as session:
            await repository.release(session, id_, lease, error, after)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)


async def _claim(session: AsyncSession, replay: str, most: int, vault: SecretBox) -> list[_Message]:
    await planner.expire_items(session, replay)
    return [
        _Message(
            id_,
            position,
            queue,
            vault.open_bytes(sealed),
            {**(headers or {}), **mark.replay_headers(id_)},
        )
        for id_, position, queue, sealed, headers in await repository.claim_items(
            session, replay, most
        )
    ]


async def _without_dead_letters(
    session: AsyncSession, items: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Skip events of the journal whose dead letter is open or was discarded: an operator decides on
    that dead letter separately."""
    ids = sorted({each["dead_letter_id"] for each in items})
    held = await repository.unresolved_letters(session, ids)
    left_out = {"state": ItemState.SKIPPED.value, "detail": _DEAD, "sealed_body": None}
    return [
        {**each, **(left_out if each["dead_letter_id"] in held else {"dead_letter_id": None})}
        for each in items
    ]

"""Consumption of messages from a queue.

`TransactionalConsumer` is for effects in our own database, `EffectfulConsumer` for external
effects. Both acknowledge a message only when its effect is durable, or when it failed and is stored
elsewhere (failure_handler.py).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity

from common.contracts.event import DecodeError, Event
from common.contracts.jobs import JOB_PREFIX
from common.contracts.operations import ReplayItemsCompleted
from common.contracts.retry_ladder import RetryLadder
from common.contracts.topology import Queue
from common.db import database
from common.db.database import Sessions
from common.error_policy import ErrorKind, classify
from common.errors import Unavailable, describe
from common.messaging import queue_recovery, replay_marker
from common.messaging.connection import BrokerConnection, broker_errors
from common.messaging.delivery import Delivery
from common.messaging.failure_handler import FailureHandler, OnGiveUp
from common.messaging.publisher import BATCH_BYTES, Publisher
from common.observability import metrics
from common.observability.logging import get_logger, ids_of
from common.observability.redaction import Redactor

log = get_logger(__name__)

_OUTAGE_PAUSE_SECONDS = 1.0
_RECONSUME_PAUSE_SECONDS = 0.2
_OUTCOMES = ("done", "duplicate", "retried", "deferred", "dead_lettered")


class RefillFailed(Exception):
    """A lost queue could not be refilled from the journal now."""


class ConsumerStopped(Exception):
    """The consumer is stopping or lost its channel: unfinished messages are left to redelivery."""


class Consumer(ABC):
    """Consumer of one queue.

    `prefetch` limits its unacknowledged messages; `attempts` and `on_give_up` are those of
    `FailureHandler`.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        broker: BrokerConnection,
        publisher: Publisher,
        sessions: Sessions,
        ladder: RetryLadder,
        redact: Redactor,
        source: str,
        prefetch: int,
        attempts: int = 6,
        on_give_up: OnGiveUp | None = None,
    ) -> None:
        self.queue = queue
        self.broker = broker
        self._publisher = publisher
        self._sessions = sessions
        self._ladder = ladder
        self._source = source
        self._prefetch = prefetch
        self._failing = FailureHandler(
            queue,
            publisher=publisher,
            sessions=sessions,
            ladder=ladder,
            redact=redact,
            source=source,
            attempts=attempts,
            on_give_up=on_give_up,
        )
        self._arrived: deque[Delivery] = deque()
        self._held: dict[int, float] = {}  # unacknowledged messages by tag, in order
        metrics.oldest_message_seconds.labels(queue.name).set_function(self._oldest)
        for outcome in _OUTCOMES:
            metrics.consumed.labels(queue.name, outcome)  # from 0, or the first increment is missed
        self.waits_for_database = False
        self._wake = asyncio.Event()
        self._stopping = False
        self._order_refill = False
        self._channel: AbstractChannel | None = None

    @property
    def consuming(self) -> bool:
        """Return whether the broker has us registered as a consumer now."""
        return self._channel is not None

    def stop(self) -> None:
        """Finish the current work and take nothing new; `run` then returns."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Consume until stopped, on a new channel whenever the old one is lost."""
        while not self._stopping:
            await self._after_cancel()
            await self._database()
            try:
                with broker_errors("consuming"):
                    await self._consume()
            except ConsumerStopped:
                await asyncio.sleep(_RECONSUME_PAUSE_SECONDS)
            except Unavailable as error:
                log.debug("consumer_not_running", queue=self.queue.name, error=str(error))
                await self._recover(error)
            finally:
                self._channel = None
                self._arrived.clear()
                self._held.clear()

    async def _database(self) -> None:
        """Wait until the database is available.

        Messages taken meanwhile would be returned with every lost connection. The broker counts
        that and at its limit dead-letters a message.
        """
        while not self._stopping and (fault := await database.fault(self._sessions)) is not None:
            if not self.waits_for_database:
                log.warning(
                    "consumer_paused_database_unavailable", fault=fault, queue=self.queue.name
                )
            self.waits_for_database = True
            await asyncio.sleep(_OUTAGE_PAUSE_SECONDS)
        self.waits_for_database = False

    async def _after_cancel(self) -> None:
        while self._order_refill and not self._stopping:
            try:
                await self._publisher.publish(
                    queue_recovery.recovery_delay(self._ladder).exchange,
                    self.queue.name,
                    b"",
                    headers=queue_recovery.recovery_headers(),
                )
                self._order_refill = False
            except Unavailable as error:
                log.warning("queue_recovery_not_requested", queue=self.queue.name, error=str(error))
                await asyncio.sleep(_OUTAGE_PAUSE_SECONDS)

    async def _recover(self, error: Unavailable) -> None:
        await asyncio.sleep(_RECONSUME_PAUSE_SECONDS)
        if not isinstance(error.__cause__, ChannelNotFoundEntity):
            return
        log.error("queue_missing_declaring", queue=self.queue.name)
        try:
            await self.broker.declare()
        except Unavailable as again:
            log.warning("topology_declaration_failed", queue=self.queue.name, error=str(again))

    @abstractmethod
    async def _work(self) -> None:
        """Handle deliveries until `_stopping`; raise `ConsumerStopped` when the channel is gone."""

    async def _consume(self) -> None:
        channel = await self.broker.channel(confirms=False, within=1.0)
        try:
            underlay = await channel.get_underlay_channel()
            self._channel = underlay
            underlay.closing.add_done_callback(lambda _: self._lose(underlay))
            underlay.on_consumer_cancel_callbacks.add(lambda _: self._cancelled(underlay))
            await underlay.basic_qos(prefetch_count=self._prefetch)
            consuming = await underlay.basic_consume(
                self.queue.name, partial(self._arrive, underlay)
            )
            log.info("consumer_started", queue=self.queue.name)
            await self._work()
            if consuming.consumer_tag is not None:
                await underlay.basic_cancel(consuming.consumer_tag)
        finally:
            await channel.close()

    def _cancelled(self, channel: AbstractChannel) -> None:
        """Handle the broker's cancel, mostly of a deleted queue, which may already exist again."""
        self._order_refill = not self._stopping
        self._lose(channel)

    def _lose(self, channel: AbstractChannel) -> None:
        if self._channel is channel:
            self._channel = None
            self._wake.set()

    async def _arrive(self, channel: AbstractChannel, message: DeliveredMessage) -> None:
        if channel is not self._channel:
            return  # from a channel that is already lost: the broker delivers it again
        delivery = Delivery.of(channel, message)
        self._arrived.append(delivery)
        self._held[delivery.tag] = delivery.waits_since
        self._wake.set()

    def _oldest(self) -> float:
        return max(0.0, time.time() - min(self._held.values(), default=math.inf))

    def _take(self, most: int) -> list[Delivery]:
        """Return up to `most` deliveries, as long as they are not too large together."""
        taken: list[Delivery] = []
        size = 0
        while self._arrived and len(taken) < most and (not taken or size < BATCH_BYTES):
            taken.append(self._arrived.popleft())
            size += len(taken[-1].body)
        return taken

    def _take_alone(self) -> Delivery | None:
        """Return one of the deliveries that must run alone, None without any.

        The choice is random: sooner or later mere neighbours get through before the message that
        crashes the worker, and only that one reaches the queue's delivery limit.
        """
        apart = [delivery for delivery in self._arrived if delivery.alone]
        if not apart:
            return None
        chosen = random.choice(apart)  # noqa: S311
        self._arrived.remove(chosen)
        return chosen

    async def _refill(self, delivery: Delivery) -> None:
        try:
            await queue_recovery.recover_queue(
                self.queue,
                delivery.headers,
                broker=self.broker,
                publisher=self._publisher,
                sessions=self._sessions,
            )
        except Exception as error:  # noqa: BLE001 - even in an outage the queue's messages continue
            failed = RefillFailed(
                f"{self.queue.name} can't be recovered from the journal: {describe(error)}"
            )
            failed.__cause__ = error
            await self._fail(delivery, failed)
            return
        if (item := replay_marker.replay_item_of(delivery.headers)) is not None:
            await self._publish_outcome(
                replay_marker.replay_completed(self.queue.name, self._source, None, done=[item])
            )

    async def _publish_outcome(self, outcome: Event[ReplayItemsCompleted]) -> None:
        await self._through_outages(
            partial(replay_marker.publish_completed, self._publisher, outcome)
        )

    async def _arrivals(self) -> None:
        """Wait for something to do. Raise `ConsumerStopped` when the channel is gone."""
        while not self._arrived and not self._stopping and self._channel is not None:
            self._wake.clear()
            await self._wake.wait()
        self._check_channel()

    def _check_channel(self) -> None:
        if self._channel is None:
            raise ConsumerStopped

    async def _acknowledge(self, delivery: Delivery, *, multiple: bool = False) -> None:
        # On the delivery's own channel: its tag would name another message on any other.
        with broker_errors("not acknowledged"):
            await delivery.channel.basic_ack(delivery.tag, multiple=multiple, wait=False)
        if delivery.channel is not self._channel:
            return
        if multiple:
            self._held = {tag: at for tag, at in self._held.items() if tag > delivery.tag}
        else:
            self._held.pop(delivery.tag, None)

    async def _through_outages(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run `action`, again while our own database or broker is unreachable; hold the messages
        meanwhile.

        An outage says nothing about a message, so it uses up none of its attempts.
        """
        while True:
            try:
                await action()
            except Exception as error:
                if classify(error) is not ErrorKind.OUTAGE:
                    raise
                log.warning("outage_waiting", queue=self.queue.name, error=describe(error))
            else:
                return
            await asyncio.sleep(_OUTAGE_PAUSE_SECONDS)
            if self._stopping:
                raise ConsumerStopped
            self._check_channel()

    async def _fail(self, delivery: Delivery, error: BaseException) -> None:
        """Schedule a retry or dead-letter the message; the caller acknowledges it."""
        await self._through_outages(partial(self._failing.handle, delivery, error))

    async def _bury(self, delivery: Delivery) -> None:
        """Dead-letter a message that could not be decoded: no handler can process it."""
        await self._fail(delivery, delivery.decode_error or DecodeError("not decoded"))

    def _done(self, events: Sequence[Event[Any]], started: float) -> None:
        """Count and log the handled events; `started` is by `time.perf_counter`."""
        duration = round((time.perf_counter() - started) * 1000, 1)
        metrics.consumed.labels(self.queue.name, "done").inc(len(events))
        now = datetime.now(UTC)
        age = metrics.event_age_seconds.labels(self.queue.name)
        for event in events:
            age.observe(max(0.0, (now - event.recordedtime).total_seconds()))
            # A clock's tick is no news: an idle system is quiet.
            write = log.debug if event.type.startswith(JOB_PREFIX) else log.info
            write("event_handled", queue=self.queue.name, duration_ms=duration, **ids_of(event))

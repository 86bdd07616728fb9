"""Taking messages from a queue; acknowledging each only when its effect is safe.

`TransactionalConsumer` is for effects that are rows, `EffectfulConsumer` for effects outside.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity
from sqlalchemy.ext.asyncio import AsyncSession

from common import metrics
from common.contracts import registry
from common.contracts.event import DecodeError, Event
from common.contracts.topology import DEAD_LETTER_EXCHANGE, Queue
from common.database import Sessions
from common.errors import Permanent, Unavailable
from common.logs import get_logger, handling
from common.messaging import dead_letter, inbox
from common.messaging.connection import Broker, broker_errors, describe
from common.messaging.dead_letter import Failures
from common.messaging.outbox import Work
from common.messaging.publisher import Publisher
from common.messaging.retry import GiveUp, Kind, Ladder, classify, plan
from common.redaction import Redactor

log = get_logger(__name__)

_OUTAGE_PAUSE_SECONDS = 1.0
_RECONSUME_PAUSE_SECONDS = 0.2

Handler = Callable[[Work, Event[Any]], Awaitable[None]]
Effect = Callable[[Event[Any]], Awaitable[None]]
Prepare = Callable[[AsyncSession, Sequence[Event[Any]]], Awaitable[None]]
OnGiveUp = Callable[[Work, Event[Any], BaseException], Awaitable[None]]


@dataclass(frozen=True)
class Delivery:
    """A message as it arrived; `event` is None when it could not be decoded."""

    channel: AbstractChannel
    tag: int
    body: bytes
    failures: Failures
    event: Event[Any] | None
    decode_error: DecodeError | None


class _Stop(Exception):
    """The consumer is stopping or lost its channel: leave what is unfinished to redelivery."""


class Consumer(ABC):
    """One consumer of one queue. `prefetch` bounds what is held unacknowledged.

    `attempts` counts the first one. When they are used up, or the error is permanent, `on_give_up`
    runs in a transaction of its own (it must bear being run twice), then the message goes to the
    queue's dead letters.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        broker: Broker,
        publisher: Publisher,
        sessions: Sessions,
        ladder: Ladder,
        redact: Redactor,
        source: str,
        prefetch: int,
        attempts: int = 6,
        on_give_up: OnGiveUp | None = None,
    ) -> None:
        self.queue = queue
        self._broker = broker
        self._publisher = publisher
        self._sessions = sessions
        self._ladder = ladder
        self._redact = redact
        self._source = source
        self._prefetch = prefetch
        self._attempts = attempts
        self._on_give_up = on_give_up
        self._arrived: deque[Delivery] = deque()
        self._wake = asyncio.Event()
        self._stopping = False
        self._channel: AbstractChannel | None = None

    @property
    def consuming(self) -> bool:
        """Whether the broker has us as a consumer now."""
        return self._channel is not None

    def stop(self) -> None:
        """Finish what is in hand and take nothing new; `run` then returns."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Consume until stopped, from a new channel whenever the old one was lost."""
        while not self._stopping:
            try:
                with broker_errors("consuming"):
                    await self._consume()
            except _Stop:
                pass
            except Unavailable as error:
                log.info("not consuming", queue=self.queue.name, error=str(error))
                await self._recover(error)
            finally:
                self._channel = None
                self._arrived.clear()

    async def _recover(self, error: Unavailable) -> None:
        await asyncio.sleep(_RECONSUME_PAUSE_SECONDS)
        if not isinstance(error.__cause__, ChannelNotFoundEntity):
            return
        log.error("the queue is gone, declaring it again", queue=self.queue.name)
        try:
            await self._broker.declare()
        except Unavailable as again:
            log.warning("not declared", queue=self.queue.name, error=str(again))

    @abstractmethod
    async def _work(self) -> None:
        """Handle deliveries until `_stopping`; raise `_Stop` when the channel is gone."""

    async def _consume(self) -> None:
        channel = await self._broker.channel(confirms=False, within=1.0)
        try:
            underlay = await channel.get_underlay_channel()
            self._channel = underlay
            underlay.closing.add_done_callback(lambda _: self._lose(underlay))
            underlay.on_consumer_cancel_callbacks.add(lambda _: self._lose(underlay))
            await underlay.basic_qos(prefetch_count=self._prefetch)
            consuming = await underlay.basic_consume(
                self.queue.name, partial(self._arrive, underlay)
            )
            log.info("consuming", queue=self.queue.name)
            await self._work()
            if consuming.consumer_tag is not None:
                await underlay.basic_cancel(consuming.consumer_tag)
        finally:
            await channel.close()

    def _lose(self, channel: AbstractChannel) -> None:
        if self._channel is channel:
            self._channel = None
            self._wake.set()

    async def _arrive(self, channel: AbstractChannel, message: DeliveredMessage) -> None:
        if channel is not self._channel:
            return  # of a channel that is lost already: the broker delivers it again
        failures = Failures.of(message.header.properties.headers or {})
        event, fault = None, None
        try:
            event = registry.decode(message.body)
        except DecodeError as error:
            fault = error
        assert message.delivery_tag is not None
        self._arrived.append(
            Delivery(channel, message.delivery_tag, message.body, failures, event, fault)
        )
        self._wake.set()

    async def _arrivals(self) -> None:
        """Wait until there is something to do. Raises `_Stop` when the channel is gone."""
        while not self._arrived and not self._stopping and self._channel is not None:
            self._wake.clear()
            await self._wake.wait()
        self._check_channel()

    def _check_channel(self) -> None:
        if self._channel is None:
            raise _Stop

    async def _acknowledge(self, delivery: Delivery, *, multiple: bool = False) -> None:
        # On the channel it came by: tags of another channel would name other messages.
        with broker_errors("not acknowledged"):
            await delivery.channel.basic_ack(delivery.tag, multiple=multiple, wait=False)

    async def _through_outages(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run `action`; while our own database or broker is away keep the messages and try again.

        An outage says nothing about a message, so it uses up none of its attempts.
        """
        while True:
            try:
                await action()
            except Exception as error:
                if classify(error) is not Kind.OUTAGE:
                    raise
                log.warning("waiting out an outage", queue=self.queue.name, error=describe(error))
            else:
                return
            await asyncio.sleep(_OUTAGE_PAUSE_SECONDS)
            if self._stopping:
                raise _Stop
            self._check_channel()

    async def _fail(self, delivery: Delivery, error: BaseException) -> None:
        """Send the message up the ladder or to the dead letters; the caller acknowledges it."""
        failures = delivery.failures.with_error(error, self._redact)
        decision = plan(
            self._ladder, attempt=failures.attempt, attempts=self._attempts, error=error
        )
        if isinstance(decision, GiveUp):
            await self._give_up(delivery, decision.reason, error)
            return
        if decision.attempt == failures.attempt:  # put off, not failed
            failures, outcome = delivery.failures, "deferred"
        else:
            outcome = "retried"
            log.warning(
                "failed, will be tried again",
                queue=self.queue.name,
                attempt=failures.attempt,
                again_in_seconds=decision.rung.seconds,
                error=describe(error),
            )
        await self._publisher.publish(
            decision.rung.queue,
            self.queue.name,
            delivery.body,
            headers=failures.headers(attempt=decision.attempt),
        )
        metrics.consumed.labels(self.queue.name, outcome).inc()

    async def _bury(self, delivery: Delivery) -> None:
        """Dead-letter at once what could not be decoded: there is nothing to hand to a handler."""
        error = delivery.decode_error or DecodeError("not decoded")
        await self._through_outages(partial(self._give_up, delivery, "undecodable", error))

    async def _give_up(self, delivery: Delivery, reason: str, error: BaseException) -> None:
        if self._on_give_up is not None and delivery.event is not None:
            async with self._sessions.begin() as session:
                work = Work(session, self._source)
                await self._on_give_up(work, delivery.event, error)
                await work.flush()
        failures = delivery.failures.with_error(error, self._redact)
        await self._publisher.publish(
            DEAD_LETTER_EXCHANGE,
            self.queue.name,
            delivery.body,
            headers=dead_letter.headers(
                failures, queue=self.queue.name, reason=reason, error=error, redact=self._redact
            ),
        )
        metrics.consumed.labels(self.queue.name, "dead_lettered").inc()
        log.error(
            "dead-lettered",
            queue=self.queue.name,
            dead_letters=self.queue.dead,
            reason=reason,
            attempts=failures.attempt,
            error=describe(error),
        )

    def _done(self, events: Sequence[Event[Any]]) -> None:
        metrics.consumed.labels(self.queue.name, "done").inc(len(events))
        now = datetime.now(UTC)
        age = metrics.event_age_seconds.labels(self.queue.name)
        for event in events:
            age.observe(max(0.0, (now - event.recordedtime).total_seconds()))


class TransactionalConsumer(Consumer):
    """Runs a batch in one transaction: inbox rows, handlers, outbox rows. Then acknowledges it.

    `prepare` may load and lock what the batch needs in one go. If the batch fails, each message is
    run alone, so that one poisonous message never takes its neighbours with it.
    """

    def __init__(
        self,
        queue: Queue,
        handlers: Mapping[str, Handler],
        *,
        batch: int = 100,
        prepare: Prepare | None = None,
        **options: Any,
    ) -> None:
        super().__init__(queue, prefetch=2 * batch, **options)
        self._handlers = handlers
        self._batch = batch
        self._prepare = prepare

    async def _work(self) -> None:
        while True:
            await self._arrivals()
            if self._stopping:
                return
            batch = [self._arrived.popleft() for _ in range(min(self._batch, len(self._arrived)))]
            started = time.perf_counter()
            await self._handle(batch)
            # Deliveries of a channel are handled in order, so everything up to the last is done.
            await self._acknowledge(batch[-1], multiple=True)
            metrics.handling_seconds.labels(self.queue.name).observe(time.perf_counter() - started)

    async def _handle(self, batch: Sequence[Delivery]) -> None:
        good = [delivery for delivery in batch if delivery.event is not None]
        for delivery in batch:
            if delivery.event is None:
                await self._bury(delivery)
        if not good:
            return
        try:
            await self._through_outages(partial(self._transact, good))
        except _Stop:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the retry table decides
            if len(good) == 1:
                await self._through_outages(partial(self._fail, good[0], error))
                return
            log.info("a batch failed, running each alone", size=len(good), error=describe(error))
            for delivery in good:
                await self._handle([delivery])

    async def _transact(self, deliveries: Sequence[Delivery]) -> None:
        events = [delivery.event for delivery in deliveries if delivery.event is not None]
        async with self._sessions.begin() as session:
            fresh = await inbox.claim(session, self.queue.name, events)
            if self._prepare is not None and fresh:
                await self._prepare(session, fresh)
            work = Work(session, self._source)
            for event in fresh:
                with handling(event):
                    await self._handler(event)(work, event)
            await work.flush()
        self._done(fresh)
        metrics.consumed.labels(self.queue.name, "duplicate").inc(len(events) - len(fresh))

    def _handler(self, event: Event[Any]) -> Handler:
        try:
            return self._handlers[event.type]
        except KeyError:
            raise Permanent(f"{self.queue.name} has no handler for {event.type}") from None


class EffectfulConsumer(Consumer):
    """Runs each message by itself, up to `concurrency` at a time, outside any transaction.

    The effect keeps its own intent with an idempotency key, so that a redelivery continues from it.
    """

    def __init__(self, queue: Queue, effect: Effect, *, concurrency: int, **options: Any) -> None:
        super().__init__(queue, prefetch=concurrency, **options)
        self._effect = effect

    async def _work(self) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._arrivals()
                if self._stopping:
                    break
                task = asyncio.create_task(self._one(self._arrived.popleft()))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            await asyncio.gather(*running, return_exceptions=True)

    async def _one(self, delivery: Delivery) -> None:
        started = time.perf_counter()
        try:
            if delivery.event is None:
                await self._bury(delivery)
            else:
                with handling(delivery.event):
                    await self._run(delivery, delivery.event)
            await self._acknowledge(delivery)
        except (_Stop, Unavailable) as error:
            # Unacknowledged: the broker delivers it again, and the intent is found.
            log.info("left to redelivery", queue=self.queue.name, error=describe(error))
        metrics.handling_seconds.labels(self.queue.name).observe(time.perf_counter() - started)

    async def _run(self, delivery: Delivery, event: Event[Any]) -> None:
        try:
            await self._through_outages(partial(self._effect, event))
        except _Stop:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the retry table decides
            await self._through_outages(partial(self._fail, delivery, error))
        else:
            self._done([event])

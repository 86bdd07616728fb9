"""Consumption of events whose effects are rows of our own database."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event, Unheard
from common.contracts.topology import Queue
from common.errors import describe
from common.messaging import inbox, queue_recovery, replay_marker
from common.messaging.consumer import Consumer, ConsumerStopped
from common.messaging.delivery import Delivery
from common.messaging.outbox import UnitOfWork
from common.observability import metrics, tracing
from common.observability.logging import get_logger, handling

log = get_logger(__name__)

Handler = Callable[[UnitOfWork, Event[Any]], Awaitable[None]]
Prepare = Callable[[AsyncSession, Sequence[Event[Any]]], Awaitable[None]]


class TransactionalConsumer(Consumer):
    """Consumer that runs a batch in one transaction (inbox, handlers, outbox), then acknowledges
    it.

    `prepare` may load and lock at once what the batch needs. A failed batch is split into halves,
    and those again, until the failing message is alone: a poisonous message never fails its
    neighbours, and delays them little.
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
            started = time.perf_counter()
            if (apart := self._take_alone()) is not None:
                await self._handle([apart])
                await self._acknowledge(apart)
            else:
                batch = self._take(self._batch)
                await self._handle(batch)
                # Messages that run alone go first and the others in order, so everything up to the
                # last one is done.
                await self._acknowledge(batch[-1], multiple=True)
            metrics.handling_seconds.labels(self.queue.name).observe(time.perf_counter() - started)

    async def _handle(self, batch: Sequence[Delivery]) -> None:
        good = [delivery for delivery in batch if delivery.event is not None]
        for delivery in batch:
            if queue_recovery.is_recovery(delivery.headers):
                await self._refill(delivery)
            elif delivery.event is None:
                await self._bury(delivery)
        if not good:
            return
        try:
            new: set[int] = set()
            await self._through_outages(partial(self._transact, good, new))
            await self._tell_replayed(good, new)
        except ConsumerStopped:
            raise
        except Exception as error:  # noqa: BLE001 - the retry table decides for any error
            if len(good) == 1:
                await self._fail(good[0], error)
                return
            log.info("batch_failed_splitting", size=len(good), error=describe(error))
            middle = len(good) // 2
            await self._handle(good[:middle])
            await self._handle(good[middle:])

    async def _transact(self, deliveries: Sequence[Delivery], new: set[int]) -> None:
        """Process the deliveries; add to `new` the `id()` of each event that was not in the
        inbox."""
        events = [delivery.event for delivery in deliveries if delivery.event is not None]
        started = time.perf_counter()
        async with self._sessions.begin() as session:
            fresh = await inbox.claim(session, self.queue.name, events)
            handlers = [self._handler(event) for event in fresh]
            if self._prepare is not None and fresh:
                await self._prepare(session, fresh)
            work = UnitOfWork(session, self._source)
            for handler, event in zip(handlers, fresh, strict=True):
                with handling(event), tracing.consuming(self.queue.name, event):
                    await handler(work, event)
            await work.flush()
        self._done(fresh, started)
        metrics.consumed.labels(self.queue.name, "duplicate").inc(len(events) - len(fresh))
        new.update(id(event) for event in fresh)

    async def _tell_replayed(self, deliveries: Sequence[Delivery], new: Container[int]) -> None:
        marked = [
            each for each in deliveries if replay_marker.replay_item_of(each.headers) is not None
        ]
        if not marked:
            return
        done, duplicates = list[str](), list[str]()
        for each in marked:
            item = replay_marker.replay_item_of(each.headers)
            assert item is not None
            (done if id(each.event) in new else duplicates).append(item)
        first = marked[0].event
        assert first is not None
        name, source = self.queue.name, self._source
        outcome = replay_marker.replay_completed(
            name, source, first, done=done, duplicates=duplicates
        )
        await self._publish_outcome(outcome)

    def _handler(self, event: Event[Any]) -> Handler:
        try:
            return self._handlers[event.type]
        except KeyError:
            raise Unheard(f"{self.queue.name} has no handler for {event.type}") from None

"""Consumption of events with external effects: calls to another system."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from common.contracts.event import Event
from common.contracts.topology import Queue
from common.errors import Unavailable, describe
from common.messaging import queue_recovery, replay_marker
from common.messaging.consumer import Consumer, ConsumerStopped
from common.messaging.delivery import Delivery
from common.observability import metrics, tracing
from common.observability.logging import get_logger, handling

log = get_logger(__name__)

Effect = Callable[[Event[Any]], Awaitable[None]]


class EffectfulConsumer(Consumer):
    """Consumer that runs each message separately, up to `concurrency` at a time, outside any
    transaction.

    The effect stores its own intent with an idempotency key, from which a redelivery continues.
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
                if (apart := self._take_alone()) is not None:
                    await asyncio.gather(*running)
                    await self._one(apart)
                    continue
                task = asyncio.create_task(self._one(self._arrived.popleft()))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            await asyncio.gather(*running, return_exceptions=True)

    async def _one(self, delivery: Delivery) -> None:
        started = time.perf_counter()
        try:
            if queue_recovery.is_recovery(delivery.headers):
                await self._refill(delivery)
            elif delivery.event is None:
                await self._bury(delivery)
            else:
                with handling(delivery.event):
                    await self._run(delivery, delivery.event)
            await self._acknowledge(delivery)
        except (ConsumerStopped, Unavailable) as error:
            # Unacknowledged: the broker delivers it again, and its intent is found.
            log.info("message_requeued", queue=self.queue.name, error=describe(error))
        except Exception:
            # Neither done nor given up. A new channel makes the broker deliver it again; on this
            # one it would occupy a place of the prefetch forever.
            log.exception("message_outcome_unknown", queue=self.queue.name)
            self._lose(delivery.channel)
        metrics.handling_seconds.labels(self.queue.name).observe(time.perf_counter() - started)

    async def _run(self, delivery: Delivery, event: Event[Any]) -> None:
        started = time.perf_counter()
        try:
            with tracing.consuming(self.queue.name, event):
                await self._through_outages(partial(self._effect, event))
        except ConsumerStopped:
            raise
        except Exception as error:  # noqa: BLE001 - the retry table decides for any error
            await self._fail(delivery, error)
        else:
            await self._tell_replayed(delivery, event)
            self._done([event], started)

    async def _tell_replayed(self, delivery: Delivery, event: Event[Any]) -> None:
        item = replay_marker.replay_item_of(delivery.headers)
        if item is not None:
            outcome = replay_marker.replay_completed(
                self.queue.name, self._source, event, done=[item]
            )
            await self._publish_outcome(outcome)

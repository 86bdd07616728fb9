"""Publishing to the broker, with a local spool for messages that it does not confirm."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from common.errors import Unavailable, describe
from common.messaging.backoff import (
    REJECTIONS,
    DestinationBackoff,
    Outcome,
    separate_refused,
)
from common.messaging.connection import BrokerConnection
from common.messaging.publisher import Publisher
from common.observability.logging import get_logger
from webhook_gateway import metrics
from webhook_gateway.delivery.spool import Spool, Spooled

log = get_logger(__name__)

_LOOP_SECONDS = 0.5
_REFUSING_SECONDS = 10.0


class DurablePublisher:
    """Publishes messages, spools those that the broker does not confirm, and drains the spool.

    Without a spool it only publishes.
    """

    def __init__(self, broker: BrokerConnection, publisher: Publisher, spool: Spool | None) -> None:
        self._broker = broker
        self._publisher = publisher
        self._spool = spool
        self._stop = asyncio.Event()
        self._handed: set[int] = set()
        self._backoff = DestinationBackoff("spool")
        self._refused_at = -math.inf
        metrics.ready.set_function(lambda: float(self._fault() is None))

    def stop(self) -> None:
        self._stop.set()

    @property
    def connected(self) -> bool:
        return self._broker.connected

    async def spool_state(self) -> dict[str, Any]:
        """Return how many messages the spool holds, and since when, for operators."""
        if self._spool is None:
            return {"used": False}
        waiting, since = await self._spool.measure()
        return {"used": True, "waiting": waiting, "full": self._spool.full, "oldest_at": since}

    async def accepts_webhooks(self) -> bool:
        """Return whether the next webhook would be accepted, judging by recent ones: a broker in an
        alarm is connected but confirms nothing. Not for readiness: a refusal counts for
        `_REFUSING_SECONDS` only, and an unready process receives no calls that would renew it."""
        refusing = time.monotonic() - self._refused_at < _REFUSING_SECONDS
        return await self.check() is None and not (refusing and self._spool is None)

    async def check(self) -> str | None:
        """Return why webhooks cannot be accepted, or None; for readiness."""
        return self._fault()

    def _fault(self) -> str | None:
        if self._broker.connected:
            return None
        if self._spool is None:
            return "RabbitMQ is not connected"
        return "RabbitMQ is not connected, and the spool is full" if self._spool.full else None

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        content_type: str,
    ) -> bool:
        """Return when the message is durable: True if confirmed by the broker, False if spooled.

        Raises `Unavailable` when it is neither.
        """
        if self._spool is None or self._broker.connected:
            try:
                await self._publisher.publish(
                    exchange, routing_key, body, headers=headers, content_type=content_type
                )
            except Unavailable:
                self._refused_at = time.monotonic()
                if self._spool is None:
                    raise
            else:
                return True
        await self._spool.add(Spooled(exchange, routing_key, body, headers or {}, content_type))
        return False

    async def run(self) -> None:
        """Drain the spool in order whenever the broker is connected."""
        spool = self._spool
        while not self._stop.is_set():
            if spool is not None:
                try:
                    if (await spool.measure())[0] and self._broker.connected:
                        await self._hand_on(spool)
                except (sqlite3.Error, OSError) as error:
                    log.error("spool_read_failed", error=describe(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _LOOP_SECONDS)

    async def _hand_on(self, spool: Spool) -> None:
        """Go through the spool once. A message that its queue rejects stays and blocks no other."""
        due = self._backoff.due()
        first = [each for destination in due for each in await spool.first_of(destination)]
        kept, away = await self._hand_on_some(spool, first)
        self._backoff.release(due)
        position, handed = 0, len(first) - kept
        while not self._stop.is_set() and not away:
            batch = await spool.after(position, without=self._backoff.blocked())
            if not batch:
                break
            position = batch[-1][0]
            left, away = await self._hand_on_some(spool, batch)
            kept, handed = kept + left, handed + len(batch) - left
        await self._remove(spool, [])
        await spool.release()
        if handed or kept:
            log.info("spool_drained", handed_on=handed, kept=kept)

    async def _hand_on_some(
        self, spool: Spool, batch: Sequence[tuple[int, Spooled]]
    ) -> tuple[int, bool]:
        """Return how many of the batch stay, and whether the broker is unavailable."""
        batch = [each for each in batch if each[0] not in self._handed]
        messages = [message for _, message in batch]
        outcomes = await self._confirm_all(messages)
        await separate_refused(
            [(each.exchange, each.routing_key) for each in messages],
            outcomes,
            lambda some: self._confirm_all([messages[number] for number in some]),
        )
        confirmed, away = [], False
        for (position, message), outcome in zip(batch, outcomes, strict=True):
            destination = (message.exchange, message.routing_key)
            if outcome is None:
                confirmed.append(position)
            elif isinstance(outcome, REJECTIONS):
                self._backoff.rejected(destination, outcome)
            else:
                self._backoff.not_tried(destination)
                if not away:
                    log.warning("spool_drain_blocked", error=describe(outcome))
                away = True
        # A crash before this publishes them again; the consumers' inboxes drop the duplicates.
        await self._remove(spool, confirmed)
        return len(batch) - len(confirmed), away

    async def _remove(self, spool: Spool, confirmed: list[int]) -> None:
        """Delete the confirmed messages. One that cannot be deleted now is remembered, and this
        process does not publish it again."""
        self._handed |= set(confirmed)
        if not self._handed:
            return
        try:
            await spool.remove(sorted(self._handed))
        except (sqlite3.Error, OSError) as error:
            log.error("spool_delete_failed", error=describe(error))
        else:
            self._handed.clear()

    async def _confirm_all(self, messages: Sequence[Spooled]) -> list[Outcome]:
        return list(await asyncio.gather(*map(self._confirm, messages)))

    async def _confirm(self, message: Spooled) -> Outcome:
        try:
            await self._publisher.publish(
                message.exchange,
                message.routing_key,
                message.body,
                headers=message.headers,
                content_type=message.content_type,
            )
        except Unavailable as error:
            return error
        return None

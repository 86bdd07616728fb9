"""Publishing: mandatory, persistent, confirmed, and bounded in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiormq import spec
from aiormq.exceptions import ChannelNotFoundEntity, PublishError

from common import metrics
from common.contracts.event import CONTENT_TYPE, Event
from common.contracts.registry import lookup
from common.errors import Unavailable
from common.logs import get_logger
from common.messaging.confirms import ConfirmChannel
from common.messaging.connection import Broker, broker_errors

log = get_logger(__name__)

PERSISTENT = 2
Properties = spec.Basic.Properties


class Unroutable(Unavailable):
    """The broker has no queue for the message and gave it back. The topology is incomplete."""


class Publisher:
    """Publishes on one channel; any number of callers may do so at once, their confirms overlap.

    `timeout` (seconds) bounds the whole publish, waiting for a connection included. While the
    broker blocks publishers (a memory or disk alarm) nothing is written to it, so that nothing
    piles up in this process.
    """

    def __init__(self, broker: Broker, *, timeout: float = 2.0) -> None:
        self._broker = broker
        self._timeout = timeout
        self._channel: ConfirmChannel | None = None
        self._opening = asyncio.Lock()
        self._mending: asyncio.Task[None] | None = None

    async def publish_event(self, event: Event[Any]) -> None:
        """Publish to the exchange of the event's type. Raises as `publish` does."""
        await self.publish(lookup(event.type).exchange, event.type, event.encode())

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        content_type: str = CONTENT_TYPE,
    ) -> None:
        """Return when a queue has the message on disk.

        Raises `Unavailable` when the broker did not confirm in time, which leaves open whether it
        has the message; `Unroutable` when no queue takes it.
        """
        properties = Properties(
            content_type=content_type, delivery_mode=PERSISTENT, headers=dict(headers or {})
        )
        try:
            await self._publish(body, exchange, routing_key, properties)
        except Unavailable as error:
            outcome = "unroutable" if isinstance(error, Unroutable) else "unconfirmed"
            metrics.published.labels(exchange, outcome).inc()
            if outcome == "unroutable" or isinstance(error.__cause__, ChannelNotFoundEntity):
                self._mend_topology()
            raise
        metrics.published.labels(exchange, "confirmed").inc()

    async def _publish(
        self, body: bytes, exchange: str, routing_key: str, properties: Properties
    ) -> None:
        waiting_for = "RabbitMQ gives no channel"
        try:
            async with asyncio.timeout(self._timeout):
                channel = self._channel
                if channel is None or channel.is_closed:
                    channel = await self._open_channel()
                waiting_for = "RabbitMQ blocks publishers (a memory or disk alarm)"
                await channel.connection.ready()
                waiting_for = "RabbitMQ did not confirm"
                with broker_errors(waiting_for):
                    await channel.publish(body, exchange, routing_key, properties)
        except TimeoutError as error:
            raise Unavailable(f"{waiting_for} within {self._timeout:g} s") from error
        except Unavailable as error:
            if isinstance(error.__cause__, PublishError):
                raise Unroutable(
                    f"no queue is bound to {exchange!r} for {routing_key!r}: "
                    "declare the topology again"
                ) from error
            raise

    def _mend_topology(self) -> None:
        """Something was deleted from the broker: declare it again, beside our callers."""
        if self._mending is None or self._mending.done():
            log.error("an exchange or a queue is gone, declaring the topology again")
            self._mending = asyncio.create_task(self._declare())

    async def _declare(self) -> None:
        try:
            await self._broker.declare()
        except Unavailable as error:
            log.warning("not declared", error=str(error))

    async def _open_channel(self) -> ConfirmChannel:
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._broker.confirm_channel()
            return self._channel

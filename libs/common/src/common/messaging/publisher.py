"""Publishing: mandatory, persistent, confirmed, and bounded in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import aiormq
from aio_pika.abc import AbstractChannel
from aiormq import spec
from aiormq.exceptions import ChannelNotFoundEntity

from common import metrics
from common.contracts.event import CONTENT_TYPE, Event
from common.contracts.registry import lookup
from common.errors import Unavailable
from common.logs import get_logger
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
        self._channel: AbstractChannel | None = None
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
        # aiormq matches a returned message by its AMQP message id: left out, it makes a unique one.
        # The event's own id would mix up two publishes of the same event that overlap.
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
        deadline = asyncio.get_running_loop().time() + self._timeout
        with broker_errors("no channel to RabbitMQ"):
            async with asyncio.timeout_at(deadline):
                channel = await (await self._open_channel()).get_underlay_channel()
        with broker_errors("RabbitMQ blocks publishers (a memory or disk alarm)"):
            async with asyncio.timeout_at(deadline):
                await channel.connection.ready()
        with broker_errors("RabbitMQ did not confirm"):
            try:
                async with asyncio.timeout_at(deadline):
                    await cast(aiormq.Channel, channel).basic_publish(
                        body,
                        exchange=exchange,
                        routing_key=routing_key,
                        properties=properties,
                        mandatory=True,
                        wait=False,  # for the socket; the confirm is waited for
                    )
            except aiormq.exceptions.PublishError as error:
                raise Unroutable(
                    f"no queue is bound to {exchange!r} for {routing_key!r}: "
                    "declare the topology again"
                ) from error

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

    async def _open_channel(self) -> AbstractChannel:
        if self._channel is None or self._channel.is_closed:
            async with self._opening:
                if self._channel is None or self._channel.is_closed:
                    self._channel = await self._broker.channel()
        return self._channel

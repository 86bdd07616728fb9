"""Publishing: mandatory, persistent, confirmed, and bounded in time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

from aiormq import spec
from aiormq.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError

from common.contracts.event import CONTENT_TYPE, Event
from common.contracts.registry import lookup
from common.errors import Unavailable, describe
from common.messaging.confirm_channel import ConfirmChannel
from common.messaging.connection import BrokerConnection, broker_errors
from common.observability import metrics
from common.observability.logging import get_logger

log = get_logger(__name__)

PERSISTENT = 2
Properties = spec.Basic.Properties


# exchange, routing key, body
Message = tuple[str, str, bytes]

_NOT_CONFIRMED = "RabbitMQ did not confirm"
# Seen on RabbitMQ 4.3.6: after a partition, channels that were open on the isolated node get no
# more confirms, while new ones do (docs/adr/0027).
_LONGEST_SILENCE_SECONDS = 10.0


# RabbitMQ 4's maximum size of a message, less the frames around it: `max_message_size`,
# https://www.rabbitmq.com/docs/configure#config-items
LARGEST_BODY = 16 * 1024 * 1024 - 64 * 1024


# Maximum size of a batch; far less than what may wait to be written to the broker.
BATCH_BYTES = 8 * 1024 * 1024


class Unroutable(Unavailable):
    """The broker returned the message: no queue is bound for it. The topology is incomplete."""


class NotTaken(Unavailable):
    """The broker is up but did not confirm this message: one of its queues is full or has no
    majority."""


class Impossible(Unavailable):
    """No broker accepts the message: it is too large, or its routing key is too long."""


class Publisher:
    """Publisher on one channel for any number of concurrent callers; their confirms overlap.

    `timeout` (seconds) limits the complete publish, including the wait for a connection. While the
    broker blocks publishers (a memory or disk alarm) nothing is written to it, so that nothing
    accumulates in this process.
    """

    def __init__(self, broker: BrokerConnection, *, timeout: float = 2.0) -> None:
        self._broker = broker
        self._timeout = timeout
        self._channel: ConfirmChannel | None = None
        self._opening = asyncio.Lock()
        self._mending: asyncio.Task[None] | None = None
        self._dropping: asyncio.Task[None] | None = None

    async def publish_event(self, event: Event[Any]) -> None:
        """Publish to the exchange of the event's type. Raise what `publish` raises."""
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

        Raise `Unavailable` when the broker did not confirm in time, which leaves open whether it
        has the message; `Unroutable` when no queue is bound for it.
        """
        properties = _properties(content_type, headers)
        failed: Unavailable | None = None
        try:
            await self._publish(body, exchange, routing_key, properties)
        except Unavailable as error:
            failed = error
            raise
        finally:
            self._count(exchange, failed)

    async def publish_all(
        self,
        messages: Sequence[Message],
        *,
        headers: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Unavailable | None]:
        """Publish many messages at once; return the error of each, None where a queue has it.

        The timeout applies to all of them together. `headers` has one entry per message.
        """
        deadline = self._deadline()
        handed_over: list[asyncio.Future[Any] | Unavailable] = []
        try:
            channel = await self._ready_channel(deadline)
            every = zip(messages, headers or repeat(None, len(messages)), strict=True)
            for message, each in every:
                with broker_errors(_NOT_CONFIRMED):
                    handed_over.append(_hand_over(channel, message, _properties(headers=each)))
        except Unavailable as error:  # messages handed over before may be confirmed
            handed_over += [error] * (len(messages) - len(handed_over))
        if confirms := [each for each in handed_over if isinstance(each, asyncio.Future)]:
            left = deadline - asyncio.get_running_loop().time()
            _, unconfirmed = await asyncio.wait(confirms, timeout=left)
            if unconfirmed:
                self._look_for_silence(channel)
        return [
            each if isinstance(each, Unavailable) else self._outcome(message, each)
            for message, each in zip(messages, handed_over, strict=True)
        ]

    def _outcome(self, message: Message, confirm: asyncio.Future[Any]) -> Unavailable | None:
        exchange, routing_key, _ = message
        failed: Unavailable | None = None
        if not confirm.done():
            confirm.cancel()
            failed = NotTaken(f"{_NOT_CONFIRMED} within {self._timeout:g} s")
        elif (error := confirm.exception()) is not None:
            failed = _failure(error, exchange, routing_key)
        self._count(exchange, failed)
        return failed

    async def _publish(
        self, body: bytes, exchange: str, routing_key: str, properties: Properties
    ) -> None:
        deadline = self._deadline()
        channel = await self._ready_channel(deadline)
        with broker_errors(_NOT_CONFIRMED):
            try:
                async with asyncio.timeout_at(deadline):
                    await channel.publish(body, exchange, routing_key, properties)
            except TimeoutError:
                self._look_for_silence(channel)
                raise
            except DeliveryError as error:  # includes its subclass PublishError
                raise _failure(error, exchange, routing_key) from error

    def _look_for_silence(self, channel: ConfirmChannel) -> None:
        if channel.silent_seconds < _LONGEST_SILENCE_SECONDS:
            return
        if self._dropping is None or self._dropping.done():
            self._dropping = asyncio.create_task(self._broker.drop(channel))

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout

    async def _ready_channel(self, deadline: float) -> ConfirmChannel:
        channel = self._channel
        if channel is None or channel.is_closed:
            with broker_errors("no channel to RabbitMQ"):
                async with asyncio.timeout_at(deadline):
                    channel = await self._open_channel()
        with broker_errors("RabbitMQ blocks publishers (a memory or disk alarm)"):
            async with asyncio.timeout_at(deadline):
                await channel.connection.ready()
        return channel

    def _count(self, exchange: str, failed: Unavailable | None) -> None:
        outcome = "confirmed"
        if failed is not None:
            outcome = "unroutable" if isinstance(failed, Unroutable) else "unconfirmed"
            if outcome == "unroutable" or isinstance(failed.__cause__, ChannelNotFoundEntity):
                self._mend_topology()
        metrics.published.labels(exchange, outcome).inc()

    def _mend_topology(self) -> None:
        """Declare the topology again in the background: a part of it was deleted."""
        if self._mending is None or self._mending.done():
            log.error("topology_missing_declaring")
            self._mending = asyncio.create_task(self._declare())

    async def _declare(self) -> None:
        try:
            await self._broker.declare()
        except Unavailable as error:
            log.warning("topology_declaration_failed", error=str(error))

    async def _open_channel(self) -> ConfirmChannel:
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._broker.confirm_channel()
            return self._channel


def _properties(
    content_type: str = CONTENT_TYPE, headers: Mapping[str, Any] | None = None
) -> Properties:
    return Properties(
        content_type=content_type, delivery_mode=PERSISTENT, headers=dict(headers or {})
    )


def _hand_over(
    channel: ConfirmChannel, message: Message, properties: Properties
) -> asyncio.Future[Any] | Impossible:
    exchange, routing_key, body = message
    if len(body) > LARGEST_BODY:
        return Impossible(f"{len(body)} bytes are more than RabbitMQ accepts, {LARGEST_BODY}")
    try:
        return channel.publish(body, exchange, routing_key, properties)
    except (ValueError, TypeError) as error:
        return Impossible(f"it can't be encoded: {describe(error)}")


def _failure(error: BaseException, exchange: str, routing_key: str) -> Unavailable:
    if isinstance(error, PublishError):
        failed: Unavailable = Unroutable(
            f"no queue is bound to {exchange!r} for {routing_key!r}: declare the topology again"
        )
    elif isinstance(error, DeliveryError):
        failed = NotTaken(f"a queue for {routing_key!r} refuses what {exchange!r} has, as if full")
    else:
        failed = Unavailable(f"{_NOT_CONFIRMED}: {describe(error)}")
    failed.__cause__ = error
    return failed

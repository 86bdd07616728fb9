"""Channel whose publishes share writes to the socket, which makes many concurrent ones cheap.

aiormq's own `basic_publish` takes a task switch, a lock, three futures and a socket write for each
message. Here all messages published in the same turn of the event loop are written together, and
each waits for one plain future. aiormq still reads the broker's responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast
from uuid import uuid4

import aiormq
import pamqp.frame
from aio_pika.abc import AbstractConnection
from aiormq import spec
from aiormq.abc import ChannelFrame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

_MOST_UNSENT_BYTES = 32 * 1024 * 1024


class PublishBufferFull(ConnectionError):
    """More data waits to be written to the broker than this process may hold."""


class ConfirmChannel(aiormq.Channel):
    """Channel for mandatory publishes; open one with `open_on`."""

    def __init__(self, connection: aiormq.abc.AbstractConnection, number: int) -> None:
        super().__init__(connection, number, publisher_confirms=True, on_return_raises=True)
        self._name = uuid4().hex[:12]
        # aiormq finds a returned message's publish by its message id.
        self.message_id_delivery_tag = _TagsInMessageIds(self.confirmations)
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._flushing: asyncio.Task[None] | None = None
        self._waiting_since: float | None = None
        self._closing.add_done_callback(self._reject_all)

    @property
    def silent_seconds(self) -> float:
        """Return for how many seconds a publish has waited and nothing at all was confirmed."""
        since = self._waiting_since
        return 0.0 if since is None else self.loop.time() - since

    def publish(
        self, body: bytes, exchange: str, routing_key: str, properties: spec.Basic.Properties
    ) -> asyncio.Future[Any]:
        """Return a future that is done when the broker confirms.

        It raises `PublishError` for a returned message, `DeliveryError` for a refused one, and
        `ChannelInvalidStateError` when the channel closes first.
        """
        if self.is_closed:
            raise aiormq.exceptions.ChannelInvalidStateError("the channel is closed")
        if self._unsent_bytes > _MOST_UNSENT_BYTES:
            raise PublishBufferFull("too much data is waiting to be written to RabbitMQ")
        tag = self.delivery_tag + 1
        properties.message_id = f"{self._name}-{tag}"
        frames = b"".join(
            (
                _publish_frame(self.number, exchange, routing_key),
                pamqp.frame.marshal(
                    ContentHeader(body_size=len(body), properties=properties), self.number
                ),
                *(pamqp.frame.marshal(part, self.number) for part in self._parts(body)),
            )
        )
        # Only an encoded message is counted: the broker counts what it receives, and a surplus tag
        # would match each later confirm to the wrong message.
        self.delivery_tag = tag
        confirmed: asyncio.Future[Any] = self.loop.create_future()
        self.confirmations[tag] = confirmed
        if self._waiting_since is None:
            self._waiting_since = self.loop.time()
        self._unsent.append(frames)
        self._unsent_bytes += len(frames)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return confirmed

    async def _on_confirm_frame(self, frame: aiormq.abc.ConfirmationFrameType) -> None:
        """Handle a confirm. aiormq's own version scans every open publish for a confirm of
        several."""
        tag = frame.delivery_tag
        assert tag is not None
        if not getattr(frame, "multiple", False):
            self._confirm_delivery(tag, frame)
        else:
            while (first := next(iter(self.confirmations), tag + 1)) <= tag:
                self._confirm_delivery(first, frame)
        self._waiting_since = self.loop.time() if self.confirmations else None

    def _parts(self, body: bytes) -> list[ContentBody]:
        size = self.max_content_size
        return [ContentBody(body[start : start + size]) for start in range(0, len(body), size)]

    async def _flush(self) -> None:
        try:
            while self._unsent:
                payload = b"".join(self._unsent)
                self._unsent.clear()
                written = self.loop.create_future()
                frame = ChannelFrame(payload=payload, should_close=False, drain_future=written)
                await self.write_queue.put(frame)
                await written
                self._unsent_bytes -= len(payload)
        finally:
            self._flushing = None

    def _reject_all(self, closing: asyncio.Future[Any]) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
        reason = None if closing.cancelled() else closing.exception()
        if not isinstance(reason, aiormq.exceptions.AMQPError):
            reason = aiormq.exceptions.ChannelInvalidStateError("the channel was closed")
        for confirmed in self.confirmations.values():
            if isinstance(confirmed, asyncio.Future) and not confirmed.done():
                confirmed.set_exception(reason)


class _TagsInMessageIds(dict[str, int]):
    """Mapping that reads the delivery tag from a message id, in place of one entry per publish."""

    def __init__(self, confirmations: Mapping[int, Any]) -> None:
        super().__init__()
        self._confirmations = confirmations

    def get(self, message_id: str, default: Any = None) -> Any:
        tag = int(message_id.rpartition("-")[2])
        waiting = self._confirmations.get(tag)
        # A publish that timed out has no waiter: aiormq would fail on its finished future.
        return tag if isinstance(waiting, asyncio.Future) and not waiting.done() else default


@lru_cache(maxsize=1024)
def _publish_frame(number: int, exchange: str, routing_key: str) -> bytes:
    method = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
    return bytes(pamqp.frame.marshal(method, number))


async def open_on(connection: AbstractConnection) -> ConfirmChannel:
    """Open a channel on the connection. Raise what aiormq raises."""
    transport = connection.transport
    if transport is None or connection.is_closed:
        raise ConnectionError("the connection was lost")
    underlay = cast(aiormq.Connection, transport.connection)
    async with underlay.last_channel_lock:
        number = max(underlay.channels, default=0) + 1
        channel = ConfirmChannel(underlay, number)
        underlay.channels[number] = channel
    await channel.open()
    return channel

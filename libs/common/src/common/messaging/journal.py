"""Reading a stream: the journal of everything published to a domain exchange, or the record of
operators' replays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from aiormq.abc import DeliveredMessage

from common.contracts.topology import JOURNAL, MARKS
from common.messaging.connection import BrokerConnection, broker_errors
from common.messaging.publisher import Publisher

_PREFETCH: Final = 100
_SILENCE_SECONDS: Final = 30
_MARK: Final = "paybus.journal_mark"


CLOCKS_DIFFER: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class Entry:
    """Entry of a stream: its `offset`, and the message as it was published.

    A mark is no event; one of an earlier version has no exchange.
    """

    offset: int
    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, Any]

    @property
    def is_mark(self) -> bool:
        return self.exchange in {MARKS, ""}


async def read_to_now(
    broker: BrokerConnection, publisher: Publisher, *, start: int | datetime, stream: str = JOURNAL
) -> AsyncGenerator[Entry]:
    """Yield the entries from `start` on that were published before this call.

    `start` is an offset, or a time (UTC) by any machine's clock: no entry since then is omitted,
    and some earlier ones are included. A stream's end can't be read, so a mark is written to it and
    read up to. Raise `Unavailable` when the broker or the stream is unreachable.
    """
    if isinstance(start, datetime):  # the broker searches by its own clock
        start -= CLOCKS_DIFFER
    mark = json.dumps({"type": _MARK, "id": str(uuid4())}).encode()
    await publisher.publish(MARKS, stream, mark)
    entries = follow(broker, start=start, stream=stream, silence_seconds=_SILENCE_SECONDS)
    async with aclosing(entries):
        async for entry in entries:
            if entry.body == mark:
                return
            if not entry.is_mark:
                yield entry


async def follow(
    broker: BrokerConnection,
    *,
    start: int | str | datetime,
    stream: str = JOURNAL,
    silence_seconds: float | None = None,
) -> AsyncGenerator[Entry]:
    """Yield the entries from `start` on and all that follow, marks included.

    `start` is an offset, a time, or `first` for all that is left of the stream. Raise `Unavailable`
    when the broker or the stream is unreachable, and after `silence_seconds` without an entry.
    """
    arrived: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()
    with broker_errors(f"the stream {stream} can't be read"):
        channel = await broker.channel(confirms=False, within=_SILENCE_SECONDS)
        try:
            underlay = await channel.get_underlay_channel()
            underlay.closing.add_done_callback(lambda _: arrived.put_nowait(None))
            # The broker cancels when the stream is deleted.
            underlay.on_consumer_cancel_callbacks.add(lambda _: arrived.put_nowait(None))
            await underlay.basic_qos(prefetch_count=_PREFETCH)
            await underlay.basic_consume(stream, arrived.put, arguments={"x-stream-offset": start})
            while True:
                async with asyncio.timeout(silence_seconds):
                    message = await arrived.get()
                if message is None:
                    raise ConnectionError("the channel or the stream was lost")
                assert message.delivery_tag is not None
                await underlay.basic_ack(message.delivery_tag, wait=False)
                yield _entry(message)
        finally:
            await channel.close()


def _entry(message: DeliveredMessage) -> Entry:
    headers: dict[str, Any] = message.header.properties.headers or {}
    return Entry(
        offset=int(headers["x-stream-offset"]),
        exchange=message.exchange or "",
        routing_key=message.routing_key or "",
        body=message.body,
        headers=headers,
    )

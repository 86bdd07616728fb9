"""Reading the journal: the stream of everything that was published to a domain exchange."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from aiormq.abc import DeliveredMessage

from common.contracts.topology import JOURNAL
from common.messaging.connection import Broker, broker_errors
from common.messaging.publisher import Publisher

_PREFETCH: Final = 500
_SILENCE_SECONDS: Final = 30
_MARK: Final = "paybus.journal_mark"


@dataclass(frozen=True)
class Entry:
    """`offset` is its place in the stream; `exchange` and `routing_key` as it was published."""

    offset: int
    exchange: str
    routing_key: str
    body: bytes


async def read_to_now(
    broker: Broker, publisher: Publisher, *, start: int | datetime
) -> AsyncGenerator[Entry]:
    """Everything from `start` on that was published before this call: an offset, or a time (UTC),
    from which on nothing is left out, and something earlier may come along.

    A stream has no end to be seen, so a mark is written into it and read up to. Raises
    `Unavailable` when the broker or the stream is away.
    """
    mark = json.dumps({"type": _MARK, "id": str(uuid4())}).encode()
    await publisher.publish("", JOURNAL, mark)
    async with aclosing(_read(broker, start)) as entries:
        async for entry in entries:
            if entry.body == mark:
                return
            if entry.exchange:  # not somebody else's mark
                yield entry


async def _read(broker: Broker, start: int | datetime) -> AsyncGenerator[Entry]:
    arrived: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
    with broker_errors("the journal can't be read"):
        channel = await broker.channel(confirms=False, within=_SILENCE_SECONDS)
        try:
            underlay = await channel.get_underlay_channel()
            await underlay.basic_qos(prefetch_count=_PREFETCH)
            await underlay.basic_consume(JOURNAL, arrived.put, arguments={"x-stream-offset": start})
            while True:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    message = await arrived.get()
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
    )

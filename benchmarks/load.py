"""Webhooks as fast as connections allow, or at a steady rate, over plain HTTP/1.1 keep-alive.

A protocol of its own, because on two cores the client's work is taken from the servers'.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast
from uuid import uuid4

from devstack.endpoints import SECRETS
from devstack.webhook import signature, subscription_created


@dataclass
class Load:
    """`seconds` has one entry for each answered request; `sent` maps a webhook's number to when it
    was sent (Unix time, seconds)."""

    took: float = 0.0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)
    sent: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.took

    def percentile(self, percent: int) -> float:
        """In milliseconds."""
        return percentile(self.seconds, percent) * 1000


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else values[0]


def numbers() -> Iterator[str]:
    """Endless names of webhooks, never the same in two runs."""
    run = uuid4().hex[:8]
    return (f"{run}_{number}" for number in itertools.count())


def requests(names: list[str], port: int, path: str) -> list[tuple[str, bytes]]:
    """Whole HTTP requests, made beforehand."""
    made = []
    for name in names:
        body = json.dumps(subscription_created(name)).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Stripe-Signature: {signature(body, SECRETS['stripe'])}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append((name, head.encode() + body))
    return made


async def as_fast_as_possible(
    port: int, waiting: list[tuple[str, bytes]], *, connections: int, seconds: float
) -> Load:
    """Each connection sends the next webhook when the last was answered, for `seconds`. All that
    were made beforehand are used up before one is sent again."""
    load, queue = Load(), deque(waiting)
    until = time.perf_counter() + seconds
    started = time.perf_counter()

    async def send() -> None:
        connection = await _connect(port)
        while time.perf_counter() < until:
            request = queue.popleft()
            queue.append(request)
            await _one(connection, request, load)
        connection.close()

    await asyncio.gather(*(send() for _ in range(connections)))
    load.took = time.perf_counter() - started
    return load


async def at_rate(
    port: int, waiting: list[tuple[str, bytes]], *, rate: float, connections: int
) -> Load:
    """All of them, `rate` a second, whether or not earlier ones were answered."""
    load = Load()
    queue: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
    started = time.perf_counter()

    async def send() -> None:
        connection = await _connect(port)
        while (request := await queue.get()) is not None:
            await _one(connection, request, load)
        connection.close()

    senders = [asyncio.create_task(send()) for _ in range(connections)]
    for number, request in enumerate(waiting):
        pause = started + number / rate - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        queue.put_nowait(request)
    for _ in senders:
        queue.put_nowait(None)
    await asyncio.gather(*senders)
    load.took = time.perf_counter() - started
    return load


async def _one(connection: _Connection, request: tuple[str, bytes], load: Load) -> None:
    name, data = request
    load.sent[name] = time.time()
    started = time.perf_counter()
    status = await connection.ask(data)
    load.seconds.append(time.perf_counter() - started)
    if status != 200:
        load.failed += 1


async def _connect(port: int) -> _Connection:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(_Connection, "127.0.0.1", port)
    return protocol


class _Connection(asyncio.Protocol):
    """One request at a time; the answers are short, with a Content-Length, chunked, or empty."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._answer: asyncio.Future[int] | None = None
        self._buffer = b""

    def ask(self, request: bytes) -> asyncio.Future[int]:
        self._answer = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
        if b"transfer-encoding" in fields:
            complete = body.endswith(b"0\r\n\r\n")
        else:
            complete = len(body) >= int(fields.get(b"content-length", b"0"))
        if complete:
            self._answer.set_result(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server hung up"))

    def close(self) -> None:
        self._transport.close()

"""A proxy that adds latency in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from devstack.addresses import with_port


@asynccontextmanager
async def slow_link(url: str, *, round_trip: float) -> AsyncIterator[str]:
    """Yield a URL that leads to `url`; a round trip takes `round_trip` seconds longer."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    target = (parts.hostname, parts.port)
    running: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def arrive() -> None:
            while True:
                at, data = await on_the_way.get()
                await asyncio.sleep(max(0.0, at - loop.time()))
                if not data:
                    writer.close()
                    return
                writer.write(data)

        arriving = asyncio.create_task(arrive())
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                on_the_way.put_nowait((loop.time() + round_trip / 2, data))
        on_the_way.put_nowait((loop.time() + round_trip / 2, b""))
        await arriving

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*target)
        for each in (carry(reader, there_writer), carry(there_reader, writer)):
            task = asyncio.create_task(each)
            running.add(task)
            task.add_done_callback(running.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield with_port(url, port)
    finally:
        server.close()
        for task in list(running):
            task.cancel()

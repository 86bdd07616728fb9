"""Raw HTTP/1.1 over a few connections, for requests that client libraries reject."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fuzz.calls import Call


class Connection:
    """Sends one request after the other; reconnects if the server closed the connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, call: Call) -> int:
        """Return the response's status. Raises `ConnectionError` if there is none."""
        for attempt in range(2):
            reader, writer = await self._open()
            try:
                writer.write(_request(call))
                await writer.drain()
                return await self._status(reader)
            except (ConnectionError, asyncio.IncompleteReadError):
                await self.close()
                if attempt:
                    raise ConnectionError("no answer") from None
        raise AssertionError

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    async def _status(self, reader: asyncio.StreamReader) -> int:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        for line in lines:
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.partition(b":")[2]))
        if b"connection: close" in lines:
            await self.close()
        return int(lines[0].split()[1])


def _request(call: Call) -> bytes:
    path = call.path or f"/webhooks/{call.provider}"
    head = [f"{call.method} {path} HTTP/1.1", "Host: gateway", f"Content-Length: {len(call.body)}"]
    head += [f"{name}: {value}" for name, value in call.headers]
    return "\r\n".join([*head, "", ""]).encode("latin-1", "replace") + call.body


async def send_all(port: int, calls: Sequence[Call], connections: int = 8) -> list[int]:
    """Return the statuses in the order of the calls."""
    statuses = [0] * len(calls)
    waiting = iter(enumerate(calls))

    async def work() -> None:
        connection = Connection(port)
        for number, call in waiting:
            statuses[number] = await connection.send(call)
        await connection.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return statuses

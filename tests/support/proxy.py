"""A TCP proxy whose line can be cut, silent or slow."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum


class Line(Enum):
    GOOD = "good"
    CUT = "cut"  # connections are reset and new ones refused
    SILENT = "silent"  # half-open: connections stay, nothing gets through until it is good again
    SLOW = "slow"  # each packet takes 150 ms


_SLOW_SECONDS = 0.15
# https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, 2.3.5: type, channel, size; payload; end.
_FRAME_HEAD, _FRAME_END = 7, 1
_HEARTBEAT = struct.pack("!BHIB", 8, 0, 0, 0xCE)
_METHOD, _BASIC_ACK = 1, struct.pack("!HH", 60, 80)


def _as_it_is(data: bytes) -> bytes:
    return data


class Proxy:
    """Forwards a loopback port to the first of `targets` (ports) that accepts. Runs in a thread."""

    def __init__(self, targets: Sequence[int]) -> None:
        self._targets = targets
        self._line = Line.GOOD
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self.port: int = server.sockets[0].getsockname()[1]

    def line(self, line: Line) -> None:
        """Set the state of the line. Nothing gets through a cut line from the time this returns."""
        self._line = line
        if line is Line.CUT:
            asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()

    def lead_to(self, targets: Sequence[int]) -> None:
        """Set the targets of new connections; existing connections stay."""
        self._targets = targets

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._line is Line.CUT:
                return
            await self._silence()
            there = await self._connect()
            if there is None:
                return
            back_reader, back_writer = there
            self._writers.add(back_writer)
            try:
                await asyncio.gather(
                    self._pump(reader, back_writer, _as_it_is),
                    self._pump(back_reader, writer, self._inward(writer)),
                )
            finally:
                self._writers.discard(back_writer)
                back_writer.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for port in self._targets:
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None

    def _inward(self, writer: asyncio.StreamWriter) -> Callable[[bytes], bytes]:
        """Return the transformation of data to this caller."""
        assert writer
        return _as_it_is

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passed: Callable[[bytes], bytes],
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self._line is Line.SLOW:
                    await asyncio.sleep(_SLOW_SECONDS)
                await self._silence()
                writer.write(passed(data))
                await writer.drain()
        await self._silence()  # the end of a connection does not get through either
        writer.transport.abort()

    async def _silence(self) -> None:
        while self._line is Line.SILENT:  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(0.05)


class LosesConfirms(Proxy):
    """A proxy to a broker that stops confirming on the connections of one moment. Confirms are
    replaced by heartbeats, as such a broker sends them."""

    def __init__(self, targets: Sequence[int]) -> None:
        super().__init__(targets)
        self._mute: set[asyncio.StreamWriter] = set()

    def lose(self) -> None:
        """Lose the confirms of all current connections."""
        self._mute = set(self._writers)

    def _inward(self, writer: asyncio.StreamWriter) -> Callable[[bytes], bytes]:
        waiting = bytearray()

        def passed(data: bytes) -> bytes:
            waiting.extend(data)
            kept = bytearray()
            while len(waiting) >= _FRAME_HEAD:
                kind, _, size = struct.unpack("!BHI", waiting[:_FRAME_HEAD])
                whole = _FRAME_HEAD + size + _FRAME_END
                if len(waiting) < whole:
                    break
                frame = bytes(waiting[:whole])
                del waiting[:whole]
                is_ack = kind == _METHOD and frame[_FRAME_HEAD:].startswith(_BASIC_ACK)
                kept += _HEARTBEAT if is_ack and writer in self._mute else frame
            return bytes(kept)

        return passed

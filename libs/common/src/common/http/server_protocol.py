"""HTTP server protocol with limits that uvicorn lacks: for request heads, unread responses and
connections."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
# How long a caller may read nothing of a response, once the buffers to it are full.
UNREAD_SECONDS = 30.0
_MOST_HEAD_BYTES = 64 * 1024
# Memory overhead of a header beyond its text.
_HEADER_BYTES = 32
# Requests that wait for the responses to earlier ones on the same connection.
_MOST_PIPELINED = 8
# All may close at the same moment, which blocks the event loop meanwhile.
MOST_CONNECTIONS = 4_000


class _TooMuch(Exception):
    """Raised in a parser's callback: the connection gets a 400 response and is closed."""


class BoundedHeads(HttpToolsProtocol):
    """Protocol that closes connections beyond its limits.

    It closes a connection on which no data arrives at first, whose request head or trailers take
    too long or are too large, on which too many requests wait, or whose caller does not read the
    responses. Where there are too many connections, it closes the one that has been without a
    request for longest. Between requests uvicorn's own time limit applies.
    """

    _without_request: ClassVar[dict[BoundedHeads, None]] = {}
    """Of this process, the longest first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = self._headers_bytes = 0
        self._head_ends: asyncio.TimerHandle | None = None
        self._reading_ends: asyncio.TimerHandle | None = None
        self._await_head(self.timeout_keep_alive)
        self._without_request[self] = None
        if len(self.connections) > MOST_CONNECTIONS:
            longest = next(iter(self._without_request))
            del self._without_request[longest]
            longest.leave()

    def data_received(self, data: bytes) -> None:
        if self._is_idle() and self._head_ends is None:
            self._await_head(HEAD_SECONDS)
        super().data_received(data)
        if self._head_ends is not None:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self._give_up()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MOST_PIPELINED:
            self.pipeline.clear()
            raise _TooMuch
        super().on_message_begin()
        self._headers_bytes = 0
        self._await_head(HEAD_SECONDS)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_bytes += len(name) + len(value) + _HEADER_BYTES
        if self._headers_bytes > _MOST_HEAD_BYTES:
            raise _TooMuch
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_is_there()
        self._without_request.pop(self, None)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_idle() and not self.transport.is_closing():
            self._without_request[self] = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading_ends = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._is_read()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Close the connection; abort it if data is unsent, because a close would wait for the
        caller to read it."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        elif not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_read()
        self._head_is_there()
        self._without_request.pop(self, None)
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self, seconds: float) -> None:
        self._head_is_there()
        self._head_ends = self.loop.call_later(seconds, self._give_up)

    def _head_is_there(self) -> None:
        self._head_bytes = 0
        if self._head_ends is not None:
            self._head_ends.cancel()
            self._head_ends = None

    def _is_read(self) -> None:
        if self._reading_ends is not None:
            self._reading_ends.cancel()
            self._reading_ends = None

    def _give_up(self) -> None:
        self._head_is_there()
        self.leave()

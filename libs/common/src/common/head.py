"""The HTTP server's protocol, with bounds on a request's head that uvicorn does not have."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
_MOST_HEAD_BYTES = 64 * 1024


class BoundedHeads(HttpToolsProtocol):
    """Closes a connection on which nothing comes at first, or whose request's head takes too long
    or is too large. Between requests uvicorn's own bound holds."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_ends: asyncio.TimerHandle | None = None
        self._await_head(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._head_ends is None:
            self._await_head(HEAD_SECONDS)
        super().data_received(data)
        if self._head_ends is not None:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self._give_up()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        self._head_is_there()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def _await_head(self, seconds: float) -> None:
        self._head_is_there()
        self._head_ends = self.loop.call_later(seconds, self._give_up)

    def _head_is_there(self) -> None:
        self._head_bytes = 0
        if self._head_ends is not None:
            self._head_ends.cancel()
            self._head_ends = None

    def _give_up(self) -> None:
        self._head_is_there()
        if not self.transport.is_closing():
            self.transport.close()

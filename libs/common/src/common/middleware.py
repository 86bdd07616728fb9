"""What every request passes before a service reads it: who calls, how much, and how long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.auth import Authenticator
from common.errors import Invalid, PaybusError, TooLarge, TooSlow
from common.problems import answer_to

MOST_BODY_BYTES = 4 * 1024 * 1024
# As long as the most patient provider waits for an answer.
BODY_SECONDS = 10.0
TOO_SLOW = f"the body did not come within {BODY_SECONDS:g} s"
# What needs no token: health and metrics, the API's description, and the console, which has a
# session of its own.
_PUBLIC = ("/healthz", "/readyz", "/metrics", "/openapi.json", "/console")

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Of a request with a body the token is checked first, then no more than `MOST_BODY_BYTES` are
    read within `BODY_SECONDS`. Every answer gets the headers that keep browsers out of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = _with_headers(send)
        if "content-length" in headers or "transfer-encoding" in headers:
            try:
                await _authenticate(scope, headers)
                async with asyncio.timeout(BODY_SECONDS):
                    body = await read_body(headers, receive, most=MOST_BODY_BYTES)
            except (PaybusError, TimeoutError) as fault:
                error = fault if isinstance(fault, PaybusError) else TooSlow(TOO_SLOW)
                answer = answer_to(error)
                answer.headers["connection"] = "close"  # the rest is not read
                await answer(scope, receive, send)
                return
            receive = _again(body, receive)
        await self._app(scope, receive, send)


async def read_body(headers: Headers, receive: Receive, *, most: int) -> bytes:
    """The body as it came. Raises `TooLarge` as soon as it is too large, and `Invalid` when the
    caller goes away."""
    too_large = TooLarge(f"a body may have {most} bytes at the most")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Invalid("the caller went away before its body was complete")
        body += message.get("body", b"")
        if len(body) > most:
            raise too_large
        if not message.get("more_body"):
            return bytes(body)


async def _authenticate(scope: Scope, headers: Headers) -> None:
    authenticator: Authenticator | None = getattr(scope["app"].state, "authenticator", None)
    if authenticator is not None and not _is_public(scope["path"], _PUBLIC):
        caller = await authenticator.authenticate(headers.get("authorization"))
        scope.setdefault("state", {})["caller"] = caller


def _is_public(path: str, public: Iterable[str]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in public)


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, to be read; what comes then is what there is."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending

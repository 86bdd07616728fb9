"""Checks of every request before a service reads it: caller, rate, size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import ClassVar, Self

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import Invalid, PaybusError, TooLarge, TooSlow, Unavailable
from common.http.auth import Authenticator
from common.http.problems import SECURITY_HEADERS, problem_response
from common.http.throttling import Throttle

# A body is parsed and validated in one turn of the event loop, and each of its values may be an
# error that is recorded: with these limits other callers do not wait long. Lists in `large_bodies`
# stop at their first error, so these may have more.
MOST_BODY_BYTES = 1024 * 1024
MOST_VALUES = 10_000
MOST_LARGE_BODY_BYTES = 2 * 1024 * 1024
MOST_LARGE_VALUES = 120_000
# Memory limit for all large bodies of a process together. The first bytes of each body are not
# counted, so that callers who send large ones slowly block no usual call and no webhook.
MOST_HELD_BYTES = 64 * 1024 * 1024
UNCOUNTED_BYTES = 32 * 1024
# The longest time that a provider waits for a response.
BODY_SECONDS = 10.0
TOO_SLOW = f"the body was not received within {BODY_SECONDS:g} s"
# Paths without a token: health and metrics, the API description, and the console, which has its own
# session.
_FOR_PROBES = ("/healthz", "/readyz", "/metrics")
_PUBLIC = (*_FOR_PROBES, "/openapi.json", "/console")
_SIGN_IN = "/console/login"


class HeldBody:
    """Memory accounting of one request's body, from its first byte until the response is sent."""

    _all: ClassVar[int] = 0
    __slots__ = ("_counted",)

    def __init__(self) -> None:
        self._counted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        HeldBody._all -= self._counted
        self._counted = 0

    def has(self, size: int) -> None:
        """Count the body's present size. Raise `Unavailable` when this process holds too much
        already."""
        more = size - UNCOUNTED_BYTES - self._counted
        if more <= 0:
            return
        if HeldBody._all + more > MOST_HELD_BYTES:
            raise Unavailable("too many large bodies are being received at once")
        HeldBody._all += more
        self._counted += more


class Guard:
    """Middleware that checks a request in this order: address rate, token, caller rate, body.

    At most `MOST_BODY_BYTES` of a body are read within `BODY_SECONDS`, with at most `MOST_VALUES`
    values (more for `large_bodies`); at most `MOST_HELD_BYTES` of all bodies are held. Every
    response gets security headers for browsers.
    """

    def __init__(self, app: ASGIApp, *, large_bodies: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._large_bodies = large_bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with HeldBody() as held:
            await self._pass(scope, receive, _with_headers(send), held)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, held: HeldBody) -> None:
        headers = Headers(scope=scope)
        has_body = "content-length" in headers or "transfer-encoding" in headers
        try:
            await _admit(scope, headers)
            if has_body:
                large = scope["path"] in self._large_bodies
                most = MOST_LARGE_BODY_BYTES if large else MOST_BODY_BYTES
                async with asyncio.timeout(BODY_SECONDS):
                    body = await read_body(headers, receive, held, most=most)
                most_values = MOST_LARGE_VALUES if large else MOST_VALUES
                if body.count(b",") >= most_values:
                    raise TooLarge(
                        f"a body may have {most_values} values at most: send several requests"
                    )
                receive = _again(body, receive)
        except (PaybusError, TimeoutError) as fault:
            error = fault if isinstance(fault, PaybusError) else TooSlow(TOO_SLOW)
            answer = problem_response(error)
            if has_body:
                answer.headers["connection"] = "close"  # the rest of the body is not read
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def read_body(headers: Headers, receive: Receive, held: HeldBody, *, most: int) -> bytes:
    """Return the unparsed body. Raise `TooLarge` as soon as it is too large, `Unavailable` when too
    much is held, and `Invalid` when the caller disconnects."""
    too_large = TooLarge(f"a body may have {most} bytes at most")
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Invalid("the client disconnected before its body was complete")
        body += message.get("body", b"")
        if len(body) > most:
            raise too_large
        held.has(len(body))
        if not message.get("more_body"):
            return bytes(body)


async def _admit(scope: Scope, headers: Headers) -> None:
    """Check rate limits and token. Raise `Unauthenticated`, `Unavailable` or `TooMany`."""
    state = scope["app"].state
    throttle: Throttle | None = getattr(state, "throttle", None)
    path = scope["path"]
    if throttle is not None and not _is_public(path, _FOR_PROBES):
        client = (scope.get("client") or ("", 0))[0]
        address = throttle.address(client, headers.getlist("x-forwarded-for"))
        await throttle.acquire("address", address)
        if path == _SIGN_IN and scope["method"] == "POST":
            await throttle.acquire("sign-in", address)
    authenticator: Authenticator | None = getattr(state, "authenticator", None)
    if authenticator is None or _is_public(path, _PUBLIC):
        return
    caller = await authenticator.authenticate(headers.get("authorization"))
    scope.setdefault("state", {})["caller"] = caller
    if throttle is not None:
        await throttle.acquire("token", f"{caller.tenant}/{caller.subject}")


def _is_public(path: str, public: Iterable[str]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in public)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that replays the body already read, then continues with the original
    one."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending

"""What every request passes before a service reads it: who calls, how much, and how long."""

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

# A body is parsed and checked in one turn of the event loop, and each of its values may be a fault
# that is written down: with these limits other callers do not wait long. `large_bodies`, whose
# lists end at their first fault, may have more.
MOST_BODY_BYTES = 1024 * 1024
MOST_VALUES = 10_000
MOST_LARGE_BODY_BYTES = 2 * 1024 * 1024
MOST_LARGE_VALUES = 120_000
# What all large bodies may take of a process's memory at once. Of each body the first bytes are not
# counted, so that callers who hold large ones back keep no usual call and no webhook out.
MOST_HELD_BYTES = 64 * 1024 * 1024
UNCOUNTED_BYTES = 32 * 1024
# As long as the most patient provider waits for an answer.
BODY_SECONDS = 10.0
TOO_SLOW = f"the body did not come within {BODY_SECONDS:g} s"
# What needs no token: health and metrics, the API's description, and the console, which has a
# session of its own.
_FOR_PROBES = ("/healthz", "/readyz", "/metrics")
_PUBLIC = (*_FOR_PROBES, "/openapi.json", "/console")
_SIGN_IN = "/console/login"


class HeldBody:
    """One request's body, from its first byte until the request is answered."""

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
        """Raises `Unavailable` when this process holds too much already."""
        more = size - UNCOUNTED_BYTES - self._counted
        if more <= 0:
            return
        if HeldBody._all + more > MOST_HELD_BYTES:
            raise Unavailable("too many large bodies are on their way at once")
        HeldBody._all += more
        self._counted += more


class Guard:
    """The token is checked first, and how often is called; then of a body no more than
    `MOST_BODY_BYTES` are read within `BODY_SECONDS`, with no more than `MOST_VALUES` values; of all
    bodies no more than `MOST_HELD_BYTES` are held. Every answer gets the headers that keep browsers
    out of it."""

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
                        f"a body may have {most_values} values at the most: send several"
                    )
                receive = _again(body, receive)
        except (PaybusError, TimeoutError) as fault:
            error = fault if isinstance(fault, PaybusError) else TooSlow(TOO_SLOW)
            answer = problem_response(error)
            if has_body:
                answer.headers["connection"] = "close"  # the rest is not read
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def read_body(headers: Headers, receive: Receive, held: HeldBody, *, most: int) -> bytes:
    """The body as it came. Raises `TooLarge` as soon as it is too large, `Unavailable` when too
    much is held, and `Invalid` when the caller goes away."""
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
        held.has(len(body))
        if not message.get("more_body"):
            return bytes(body)


async def _admit(scope: Scope, headers: Headers) -> None:
    """Raises `Unauthenticated`, `Unavailable` or `TooMany`."""
    state = scope["app"].state
    throttle: Throttle | None = getattr(state, "throttle", None)
    path = scope["path"]
    if throttle is not None and not _is_public(path, _FOR_PROBES):
        client = (scope.get("client") or ("", 0))[0]
        address = throttle.address(client, headers.getlist("x-forwarded-for"))
        await throttle.take("address", address)
        if path == _SIGN_IN and scope["method"] == "POST":
            await throttle.take("sign-in", address)
    authenticator: Authenticator | None = getattr(state, "authenticator", None)
    if authenticator is None or _is_public(path, _PUBLIC):
        return
    caller = await authenticator.authenticate(headers.get("authorization"))
    scope.setdefault("state", {})["caller"] = caller
    if throttle is not None:
        await throttle.take("token", f"{caller.tenant}/{caller.subject}")


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
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending

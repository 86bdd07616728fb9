"""Calling an outside system's JSON API."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import HttpUrl

from common.errors import NotAuthorized, ProviderRejected, ProviderTimeout, RateLimited, Upstream
from common.observability.redaction import Redactor

Object = dict[str, Any]

# Of an answer, decompressed. The largest page that is asked for has 200 transfers (Dwolla).
LARGEST_ANSWER_BYTES = 8 * 1024 * 1024
_LONGEST_ANSWER = 10_000
_LONGEST_EXCERPT = 400
_RETRY_AFTER_SECONDS = 30.0
_LONGEST_RETRY_AFTER_SECONDS = 600.0
# What was so of the body before it was decompressed.
_OF_THE_WAY = frozenset({"content-encoding", "content-length", "transfer-encoding"})
# Of the 4xx, those that say nothing about what was asked for.
_NOT_A_REFUSAL = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY})


class OAuthToken:
    """An OAuth access token (RFC 6749, 4.4), asked for anew a minute before it ends."""

    def __init__(self) -> None:
        self._token = ""
        self._until = 0.0

    def forget(self) -> None:
        self._until = 0.0

    async def get(self, fetch: Callable[[], Awaitable[Object | None]]) -> str:
        if time.monotonic() >= self._until:
            fetched = await fetch()
            if fetched is None:
                raise Upstream("has no token for us")
            self._token = str(fetched["access_token"])
            self._until = time.monotonic() + float(fetched["expires_in"]) - 60
        return self._token


def excerpt(said: str, redact: Redactor) -> str:
    """What is kept of a text of any length, without its secrets."""
    return redact.beginning(strip_nul(said), _LONGEST_EXCERPT)


def strip_nul(text: str) -> str:
    """Without NUL, which PostgreSQL keeps in no text."""
    return text.replace("\0", "")


def join_url(base: HttpUrl, *parts: str) -> str:
    """Each part is one of the path, whatever characters it has."""
    return "/".join([str(base).rstrip("/"), *(quote(part, safe="") for part in parts)])


async def bounded(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    largest: int = LARGEST_ANSWER_BYTES,
    **options: Any,
) -> httpx.Response:
    """The answer, read and decompressed up to `largest` bytes: a few bytes may unfold to more than
    a process has. Raises `ProviderTimeout` beyond that, and what httpx raises."""
    body = bytearray()
    async with http.stream(method, url, **options) as streamed:
        async for chunk in streamed.aiter_bytes():
            body += chunk
            if len(body) > largest:
                raise ProviderTimeout(
                    f"answers {streamed.status_code} with more than {largest} bytes"
                )
        headers = [
            (name, value)
            for name, value in streamed.headers.multi_items()
            if name not in _OF_THE_WAY
        ]
        return httpx.Response(
            streamed.status_code, headers=headers, content=bytes(body), request=streamed.request
        )


async def request_json(
    http: httpx.AsyncClient, method: str, url: str, **options: Any
) -> Object | None:
    """The JSON object of an answer, empty for an empty one; None when what was asked for is not
    known there. Raises what `request` raises."""
    answered = await request(http, method, url, **options)
    if answered is None:
        return None
    body = answered.json() if answered.content else {}
    if not isinstance(body, dict):
        raise Upstream("answers something that is no JSON object")
    return body


async def request(
    http: httpx.AsyncClient, method: str, url: str, **options: Any
) -> httpx.Response | None:
    """A successful answer; None for 404.

    Raises `RateLimited`, `NotAuthorized`, `ProviderRejected`, or `Upstream` when the outcome is not
    known: `ProviderTimeout` when the call may still be under way. The message has the answer: mask
    the secrets in it, then cut it (`excerpt`).
    """
    try:
        response = await bounded(http, method, url, **options)
    except httpx.RequestError as error:
        raise ProviderTimeout(f"gave no answer ({type(error).__name__})") from error
    status = response.status_code
    if status == httpx.codes.NOT_FOUND:
        return None
    if status == httpx.codes.TOO_MANY_REQUESTS:
        after = response.headers.get("retry-after", "")
        seconds = float(after[:9]) if after.isdecimal() else _RETRY_AFTER_SECONDS
        raise RateLimited("asked too often", min(seconds, _LONGEST_RETRY_AFTER_SECONDS))
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise NotAuthorized(f"answers {status}: check the account's credentials")
    said = f"answers {status}: {response.text[:_LONGEST_ANSWER]}"
    if response.is_client_error and status not in _NOT_A_REFUSAL:
        raise ProviderRejected(said, status)
    if status == httpx.codes.INTERNAL_SERVER_ERROR:
        raise Upstream(said)
    if not response.is_success:
        raise ProviderTimeout(said)  # somebody between us and the other side, who may still be busy
    return response

"""Calls to external JSON APIs."""

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

# Limit of a decompressed response. The largest requested page has 200 transfers (Dwolla).
LARGEST_ANSWER_BYTES = 8 * 1024 * 1024
_LONGEST_ANSWER = 10_000
_LONGEST_EXCERPT = 400
_RETRY_AFTER_SECONDS = 30.0
_LONGEST_RETRY_AFTER_SECONDS = 600.0
# Headers that describe the body as transferred, before decompression.
_OF_THE_WAY = frozenset({"content-encoding", "content-length", "transfer-encoding"})
# The 4xx statuses that do not reject the request itself.
_NOT_A_REFUSAL = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY})


class OAuthToken:
    """OAuth access token (RFC 6749, 4.4), renewed one minute before it expires."""

    def __init__(self) -> None:
        self._token = ""
        self._until = 0.0

    def forget(self) -> None:
        self._until = 0.0

    async def get(self, fetch: Callable[[], Awaitable[Object | None]]) -> str:
        if time.monotonic() >= self._until:
            fetched = await fetch()
            if fetched is None:
                raise Upstream("returned no access token")
            self._token = str(fetched["access_token"])
            self._until = time.monotonic() + float(fetched["expires_in"]) - 60
        return self._token


def excerpt(said: str, redact: Redactor) -> str:
    """Return the part of a text of any length that is stored, without secrets and NUL."""
    return redact.beginning(strip_nul(said), _LONGEST_EXCERPT)


def strip_nul(text: str) -> str:
    """Remove NUL, which PostgreSQL can't store in text."""
    return text.replace("\0", "")


def join_url(base: HttpUrl, *parts: str) -> str:
    """Append `parts` to a URL; each is quoted as one path segment, whatever its characters."""
    return "/".join([str(base).rstrip("/"), *(quote(part, safe="") for part in parts)])


async def bounded(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    largest: int = LARGEST_ANSWER_BYTES,
    **options: Any,
) -> httpx.Response:
    """Return the response, read and decompressed up to `largest` bytes.

    A few compressed bytes may expand to more than the process's memory. Raise `ProviderTimeout`
    beyond the limit, and httpx's own errors.
    """
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
    """Return the JSON object of the response, empty for an empty body; None for 404.

    Raise what `request` raises, and `Upstream` for anything else than a JSON object.
    """
    answered = await request(http, method, url, **options)
    if answered is None:
        return None
    try:
        body = answered.json() if answered.content else {}
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Upstream("did not return a JSON object")
    return body


async def request(
    http: httpx.AsyncClient, method: str, url: str, **options: Any
) -> httpx.Response | None:
    """Return a successful response; None for 404.

    Raise `RateLimited`, `NotAuthorized`, `ProviderRejected`, or `Upstream` when the outcome is
    unknown; its subclass `ProviderTimeout` means that the call may still be in progress. The
    message contains the response: mask its secrets before truncating it (`excerpt`).
    """
    try:
        response = await bounded(http, method, url, **options)
    except httpx.RequestError as error:
        raise ProviderTimeout(f"did not respond ({type(error).__name__})") from error
    status = response.status_code
    if status == httpx.codes.NOT_FOUND:
        return None
    if status == httpx.codes.TOO_MANY_REQUESTS:
        after = response.headers.get("retry-after", "")
        seconds = float(after[:9]) if after.isdecimal() else _RETRY_AFTER_SECONDS
        raise RateLimited("limits the rate of calls", min(seconds, _LONGEST_RETRY_AFTER_SECONDS))
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise NotAuthorized(f"answers {status}: check the account's credentials")
    said = f"answers {status}: {response.text[:_LONGEST_ANSWER]}"
    if response.is_client_error and status not in _NOT_A_REFUSAL:
        raise ProviderRejected(said, status)
    if status == httpx.codes.INTERNAL_SERVER_ERROR:
        raise Upstream(said)
    if not response.is_success:
        raise ProviderTimeout(said)  # maybe an intermediary's: the call may be in progress
    return response

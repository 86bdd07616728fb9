"""Calling an outside system's JSON API."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import HttpUrl

from common.errors import RateLimited, Upstream
from common.redaction import Redactor

Object = dict[str, Any]

_LONGEST_ANSWER = 10_000
_LONGEST_EXCERPT = 400
_RETRY_AFTER_SECONDS = 30.0
_LONGEST_RETRY_AFTER_SECONDS = 600.0
# Of the 4xx, those that say nothing about what was asked for.
_NOT_A_REFUSAL = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY})


class NotAuthorized(Upstream):
    """The other side does not take our credentials, or not any more."""


class NoAnswer(Upstream):
    """Nobody knows whether the call was taken: the other side may still be busy with it."""


class Refused(Upstream):
    """The other side understood and says no; what was asked for was not done."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Token:
    """An OAuth access token (RFC 6749, 4.4), asked for anew a minute before it ends."""

    def __init__(self) -> None:
        self._token = ""
        self._until = 0.0

    def forget(self) -> None:
        self._until = 0.0

    async def get(self, fetch: Callable[[], Awaitable[Object | None]]) -> str:
        if time.monotonic() >= self._until:
            answer = await fetch()
            if answer is None:
                raise Upstream("has no token for us")
            self._token = str(answer["access_token"])
            self._until = time.monotonic() + float(answer["expires_in"]) - 60
        return self._token


def excerpt(said: str, redact: Redactor) -> str:
    """What is kept of a text of any length, without its secrets."""
    return redact.beginning(plain(said), _LONGEST_EXCERPT)


def plain(text: str) -> str:
    """Without NUL, which PostgreSQL keeps in no text."""
    return text.replace("\0", "")


def url(base: HttpUrl, *parts: str) -> str:
    """Each part is one of the path, whatever characters it has."""
    return "/".join([str(base).rstrip("/"), *(quote(part, safe="") for part in parts)])


async def call(http: httpx.AsyncClient, method: str, url: str, **request: Any) -> Object | None:
    """The JSON object of an answer, empty for an empty one; None when what was asked for is not
    known there. Raises what `answer` raises."""
    answered = await answer(http, method, url, **request)
    if answered is None:
        return None
    body = answered.json() if answered.content else {}
    if not isinstance(body, dict):
        raise Upstream("answers something that is no JSON object")
    return body


async def answer(
    http: httpx.AsyncClient, method: str, url: str, **request: Any
) -> httpx.Response | None:
    """A successful answer; None for 404.

    Raises `RateLimited`, `NotAuthorized`, `Refused`, or `Upstream` when what became of the call is
    not known: `NoAnswer` when it may still be under way. The message has the answer: mask the
    secrets in it, then cut it (`excerpt`).
    """
    try:
        answer = await http.request(method, url, **request)
    except httpx.RequestError as error:
        raise NoAnswer(f"gave no answer ({type(error).__name__})") from error
    status = answer.status_code
    if status == httpx.codes.NOT_FOUND:
        return None
    if status == httpx.codes.TOO_MANY_REQUESTS:
        after = answer.headers.get("retry-after", "")
        seconds = float(after[:9]) if after.isdecimal() else _RETRY_AFTER_SECONDS
        raise RateLimited("asked too often", min(seconds, _LONGEST_RETRY_AFTER_SECONDS))
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise NotAuthorized(f"answers {status}: check the account's credentials")
    said = f"answers {status}: {answer.text[:_LONGEST_ANSWER]}"
    if answer.is_client_error and status not in _NOT_A_REFUSAL:
        raise Refused(said, status)
    if status == httpx.codes.INTERNAL_SERVER_ERROR:
        raise Upstream(said)
    if not answer.is_success:
        raise NoAnswer(said)  # somebody between us and the other side, who may still be busy
    return answer

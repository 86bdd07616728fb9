"""Asking a provider for the truth about a payment."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import quote

import httpx
from pydantic import HttpUrl
from starlette.datastructures import Headers

from common.contracts.payments import Contact
from common.errors import RateLimited, Upstream
from webhook_gateway.domain import Standing
from webhook_gateway.endpoints import Endpoint
from webhook_gateway.providers import Object, Options, Proof, Provider

_LONGEST_EXCERPT = 300
_RETRY_AFTER_SECONDS = 30.0
_LONGEST_RETRY_AFTER_SECONDS = 600.0


@dataclass(frozen=True)
class Question:
    """`reference` is the provider's name for the payment; `lookup` what else it wants to be told,
    as the payment's `checkout.started` had it."""

    reference: str
    lookup: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What the provider says. `amount` is in minor units; it and `currency` are there when the
    standing is not `pending` or `unknown`."""

    standing: Standing
    amount: int = 0
    currency: str = ""
    references: tuple[str, ...] = ()
    contact: Contact = field(default_factory=Contact)
    reason: str | None = None


class NotAuthorized(Upstream):
    """The provider does not take our credentials, or not any more."""


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


class AskedProvider(Provider):
    """One whose calls are hints. `failure_is_final` is whether a failed payment stays one: a link
    may be paid after a first attempt failed."""

    failure_is_final: ClassVar[bool] = False

    @staticmethod
    def url(base: HttpUrl, *parts: str) -> str:
        """Each part is one of the path, whatever characters a hint had in it."""
        return "/".join([str(base).rstrip("/"), *(quote(part, safe="") for part in parts)])

    @property
    @abstractmethod
    def can_be_asked(self) -> bool:
        """Whether the endpoint has what its API wants."""

    @abstractmethod
    async def ask(self, http: httpx.AsyncClient, question: Question) -> Answer:
        """Raises `RateLimited`, `Upstream`, and what reading a strange answer raises."""


class UnprovedProvider(AskedProvider):
    """One whose calls prove nothing: anybody may make them. Its API wants an access token."""

    needs_secret = False
    usual_rate = "6000/minute"

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        super().__init__(endpoint, options)
        self._token = Token()

    async def verify(self, headers: Headers, body: bytes) -> Proof:
        return Proof("none")

    async def ask(self, http: httpx.AsyncClient, question: Question) -> Answer:
        try:
            return await self._ask(http, question)
        except NotAuthorized:
            self._token.forget()  # it may have been revoked before its time
            raise

    @abstractmethod
    async def _ask(self, http: httpx.AsyncClient, question: Question) -> Answer: ...


def expect(question: Question, answered: Any) -> None:
    """Raises `Upstream` when the answer is about another payment than was asked about."""
    if answered != question.reference:
        raise Upstream("answers about another payment than it was asked about")


def texts(*values: Any) -> tuple[str, ...]:
    """Those that are there, as text, whatever the provider makes of its ids."""
    return tuple(str(each) for each in values if each is not None and each != "")


async def call(http: httpx.AsyncClient, method: str, url: str, **request: Any) -> Object | None:
    """The JSON object of an answer; None when the provider does not know what was asked for.

    Raises `RateLimited` or `Upstream`. The message has an excerpt of the answer.
    """
    try:
        answer = await http.request(method, url, **request)
    except httpx.TransportError as error:
        raise Upstream(f"no answer ({type(error).__name__})") from error
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        after = answer.headers.get("retry-after", "")
        seconds = float(after[:9]) if after.isdecimal() else _RETRY_AFTER_SECONDS
        raise RateLimited("asked too often", min(seconds, _LONGEST_RETRY_AFTER_SECONDS))
    if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise NotAuthorized(f"answers {answer.status_code}: check the endpoint's credentials")
    if not answer.is_success:
        raise Upstream(f"answers {answer.status_code}: {answer.text[:_LONGEST_EXCERPT]}")
    body = answer.json()
    if not isinstance(body, dict):
        raise Upstream("answers something that is no JSON object")
    return body

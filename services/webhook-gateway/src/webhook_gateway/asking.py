"""Asking a provider for the truth about a payment."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
from starlette.datastructures import Headers

from common.contracts.payments import Contact
from common.errors import Upstream
from common.outside import NotAuthorized, Token
from webhook_gateway.domain import Standing
from webhook_gateway.endpoints import Endpoint
from webhook_gateway.providers import Options, Proof, Provider


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


class AskedProvider(Provider):
    """One whose calls are hints. `failure_is_final` is whether a failed payment stays one: a link
    may be paid after a first attempt failed."""

    failure_is_final: ClassVar[bool] = False

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

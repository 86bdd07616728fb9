"""Asking a provider for the truth about a payment."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar
from uuid import uuid4

import httpx
from starlette.datastructures import Headers

from common.contracts.event import Event
from common.contracts.payments import Contact, PaymentHint
from common.errors import Upstream
from common.outside import NotAuthorized, Token, plain
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
    standing is not `pending` or `unknown`. `at` (UTC) is when it was so, if it says that; `charge`
    which of several charges for the payment this one is, where there can be several."""

    standing: Standing
    amount: int = 0
    currency: str = ""
    references: tuple[str, ...] = ()
    contact: Contact = field(default_factory=Contact)
    reason: str | None = None
    at: datetime | None = None
    charge: str | None = None


class AskedProvider(Provider):
    """One whose calls are hints: what they claim is asked for. `failure_is_final` is whether a
    failed payment stays one: a link may be paid after a first attempt failed. `charges_again` is
    whether what is paid can be paid once more."""

    failure_is_final: ClassVar[bool] = False
    charges_again: ClassVar[bool] = False
    # Whether its calls carry a secret of the payment instead of the name that it is asked by.
    hints_by_secret: ClassVar[bool] = False

    def hint(self, reference: str, status: str, proof: Proof) -> Event[Any]:
        """Each is news: were the second of two the same event, a forged one that came before the
        true one would silence it. What it costs is bounded where the provider is asked."""
        claim = _CLAIMS.get(status.lower(), "other")
        return self.event(
            "payment.reported",
            PaymentHint(
                provider=self.name, endpoint=self.endpoint.name, reference=reference, claim=claim
            ),
            id_=str(uuid4()),
            subject=reference,
            proof=proof,
        )

    @property
    @abstractmethod
    def can_be_asked(self) -> bool:
        """Whether the endpoint has what its API wants."""

    @abstractmethod
    async def ask(self, http: httpx.AsyncClient, question: Question) -> Answer:
        """Raises `RateLimited`, `Upstream`, and what reading a strange answer raises."""

    async def charges(self, http: httpx.AsyncClient, question: Question) -> Sequence[Answer]:
        """Every charge for the payment that succeeded, where there can be several; raises what
        `ask` raises."""
        return ()


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


def contact(email: Any, name: Any) -> Contact:
    """As far as they are texts: who paid is told even when it is not known by what name."""
    return Contact(
        email=plain(email) if isinstance(email, str) else None,
        name=plain(name) if isinstance(name, str) else None,
    )


def expect(question: Question, answered: Any) -> None:
    """Raises `Upstream` when the answer is about another payment than was asked about."""
    if answered != question.reference:
        raise Upstream("answers about another payment than it was asked about")


def texts(*values: Any) -> tuple[str, ...]:
    """Those that are there, as text, whatever the provider makes of its ids."""
    return tuple(plain(str(each)) for each in values if each is not None and each != "")


# What providers call it.
_CLAIMS = {
    **dict.fromkeys(("success", "successful", "succeeded", "completed"), "succeeded"),
    **dict.fromkeys(("created", "initiated", "pending"), "pending"),
    "failed": "failed",
    "expired": "expired",
}

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

from common.clients.json_api import OAuthToken, strip_nul
from common.contracts.event import Event
from common.contracts.payments import Contact, UnverifiedPaymentNotification
from common.errors import NotAuthorized, Upstream
from webhook_gateway.domain import PaymentStatus
from webhook_gateway.providers.base import Authentication, Options, Provider
from webhook_gateway.providers.endpoint import Endpoint


@dataclass(frozen=True)
class PaymentQuery:
    """`reference` is the provider's name for the payment; `lookup` what else it wants to be told,
    as the payment's `checkout.started` had it."""

    reference: str
    lookup: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PaymentStatusResult:
    """What the provider says. `amount` is in minor units; it and `currency` are there when the
    standing is not `pending` or `unknown`. `at` (UTC) is when it was so, if it says that; `charge`
    which of several charges for the payment this one is, where there can be several."""

    standing: PaymentStatus
    amount: int = 0
    currency: str = ""
    references: tuple[str, ...] = ()
    contact: Contact = field(default_factory=Contact)
    reason: str | None = None
    at: datetime | None = None
    charge: str | None = None


class PollableProvider(Provider):
    """One whose calls are hints: what they claim is asked for. `failure_is_final` is whether a
    failed payment stays one: a link may be paid after a first attempt failed. `charges_again` is
    whether what is paid can be paid once more."""

    failure_is_final: ClassVar[bool] = False
    charges_again: ClassVar[bool] = False
    # Whether its calls carry a secret of the payment instead of the name that it is asked by.
    hints_by_secret: ClassVar[bool] = False

    def hint(self, reference: str, status: str, proof: Authentication) -> Event[Any]:
        """Each is news: were the second of two the same event, a forged one that came before the
        true one would silence it. What it costs is bounded where the provider is asked."""
        claim = _CLAIMS.get(status.lower(), "other")
        return self.event(
            "payment.notification_received",
            UnverifiedPaymentNotification(
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
    async def ask(self, http: httpx.AsyncClient, question: PaymentQuery) -> PaymentStatusResult:
        """Raises `RateLimited`, `Upstream`, and what reading a strange answer raises."""

    async def charges(
        self, http: httpx.AsyncClient, question: PaymentQuery
    ) -> Sequence[PaymentStatusResult]:
        """Every charge for the payment that succeeded, where there can be several; raises what
        `ask` raises."""
        return ()


class UnsignedProvider(PollableProvider):
    """One whose calls prove nothing: anybody may make them. Its API wants an access token."""

    needs_secret = False
    # Every call becomes a journal event, forged ones included. Polling covers what is refused.
    usual_rate = "600/minute"

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        super().__init__(endpoint, options)
        self._token = OAuthToken()

    async def verify(self, headers: Headers, body: bytes) -> Authentication:
        return Authentication("none")

    async def ask(self, http: httpx.AsyncClient, question: PaymentQuery) -> PaymentStatusResult:
        try:
            return await self._ask(http, question)
        except NotAuthorized:
            self._token.forget()  # it may have been revoked before its time
            raise

    @abstractmethod
    async def _ask(
        self, http: httpx.AsyncClient, question: PaymentQuery
    ) -> PaymentStatusResult: ...


def contact_of(email: Any, name: Any) -> Contact:
    """As far as they are texts: who paid is told even when it is not known by what name."""
    return Contact(
        email=strip_nul(email) if isinstance(email, str) else None,
        name=strip_nul(name) if isinstance(name, str) else None,
    )


def require_same_payment(question: PaymentQuery, answered: Any) -> None:
    """Raises `Upstream` when the answer is about another payment than was asked about."""
    if answered != question.reference:
        raise Upstream("answers about another payment than it was asked about")


def non_empty_texts(*values: Any) -> tuple[str, ...]:
    """Those that are there, as text, whatever the provider makes of its ids."""
    return tuple(strip_nul(str(each)) for each in values if each is not None and each != "")


# What providers call it.
_CLAIMS = {
    **dict.fromkeys(("success", "successful", "succeeded", "completed"), "succeeded"),
    **dict.fromkeys(("created", "initiated", "pending"), "pending"),
    "failed": "failed",
    "expired": "expired",
}

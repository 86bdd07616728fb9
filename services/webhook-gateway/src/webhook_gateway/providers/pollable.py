"""Base classes of the providers whose payments are polled."""

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
    """`reference` is the provider's name for the payment; `lookup` has the further parameters that
    its API needs, from the payment's `checkout.started`."""

    reference: str
    lookup: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PaymentStatusResult:
    """The provider's result of a status query. `amount` is in minor units; `amount` and `currency`
    are present unless the status is `pending` or `unknown`. `at` (UTC) is when the status was
    reached, if reported; `charge` identifies the charge where a payment can have several."""

    status: PaymentStatus
    amount: int = 0
    currency: str = ""
    references: tuple[str, ...] = ()
    contact: Contact = field(default_factory=Contact)
    reason: str | None = None
    at: datetime | None = None
    charge: str | None = None


class PollableProvider(Provider):
    """A provider whose calls are unverified notifications, each confirmed by a status query.

    `failure_is_final` is false where a link can be paid after a failed attempt; `charges_again` is
    true where a paid payment can be paid a second time.
    """

    failure_is_final: ClassVar[bool] = False
    charges_again: ClassVar[bool] = False
    # Whether its calls carry a secret of the payment instead of the reference to query.
    notifies_by_secret: ClassVar[bool] = False

    def notification(self, reference: str, status: str, proof: Authentication) -> Event[Any]:
        """Return a new event for every call: with a common id, a forged call that arrived first
        would suppress the genuine one. The queries' rate limit bounds the cost of forgeries."""
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
    def can_be_polled(self) -> bool:
        """Whether the endpoint has the credentials that its API requires."""

    @abstractmethod
    async def poll(self, http: httpx.AsyncClient, query: PaymentQuery) -> PaymentStatusResult:
        """Query the payment. Raises `RateLimited`, `Upstream`, and any error of reading an
        unexpected response."""

    async def charges(
        self, http: httpx.AsyncClient, query: PaymentQuery
    ) -> Sequence[PaymentStatusResult]:
        """Return every successful charge of the payment, where there can be several. Raises what
        `poll` raises."""
        return ()


class UnsignedProvider(PollableProvider):
    """A provider whose calls have no signature. Its API needs an access token."""

    needs_secret = False
    # Every call becomes a journal event, forged ones included. Polling covers the refused calls.
    usual_rate = "600/minute"

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        super().__init__(endpoint, options)
        self._token = OAuthToken()

    async def verify(self, headers: Headers, body: bytes) -> Authentication:
        return Authentication("none")

    async def poll(self, http: httpx.AsyncClient, query: PaymentQuery) -> PaymentStatusResult:
        try:
            return await self._poll(http, query)
        except NotAuthorized:
            self._token.forget()  # it may have been revoked early
            raise

    @abstractmethod
    async def _poll(self, http: httpx.AsyncClient, query: PaymentQuery) -> PaymentStatusResult: ...


def contact_of(email: Any, name: Any) -> Contact:
    """Return the contact from the values that are strings."""
    return Contact(
        email=strip_nul(email) if isinstance(email, str) else None,
        name=strip_nul(name) if isinstance(name, str) else None,
    )


def require_same_payment(query: PaymentQuery, answered: Any) -> None:
    """Raise `Upstream` when the response is about a payment other than the queried one."""
    if answered != query.reference:
        raise Upstream("the response concerns a payment other than the queried one")


def non_empty_texts(*values: Any) -> tuple[str, ...]:
    """Return the values that are present as strings: some providers' ids are numbers."""
    return tuple(strip_nul(str(each)) for each in values if each is not None and each != "")


# The claim behind each provider's status name.
_CLAIMS = {
    **dict.fromkeys(("success", "successful", "succeeded", "completed"), "succeeded"),
    **dict.fromkeys(("created", "initiated", "pending"), "pending"),
    "failed": "failed",
    "expired": "expired",
}

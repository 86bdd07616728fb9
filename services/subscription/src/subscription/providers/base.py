"""Interface for starting payments; each provider is a module of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import ClassVar

import httpx
from pydantic import BaseModel, ConfigDict, Field

from common.clients.json_api import OAuthToken, Object
from common.contracts.money import Currency, MinorUnits, major_units
from common.errors import Invalid, NotAuthorized, Upstream
from subscription.schemas.checkout import NewCheckout


class Options(BaseModel):
    """Options of an account. At most `max_concurrency` calls run at the same time; after ten in a
    row without a response, none is made for `circuit_reset_seconds`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_concurrency: int = Field(default=100, ge=1)
    circuit_reset_seconds: float = Field(default=30, gt=0)


@dataclass(frozen=True)
class CheckoutRequest:
    """A stored checkout that is now to be started at the provider.

    `reference` is our name for it at the provider.
    """

    id: str
    reference: str
    request: NewCheckout

    @property
    def amount(self) -> MinorUnits:
        assert self.request.amount is not None
        return self.request.amount

    @property
    def currency(self) -> Currency:
        assert self.request.currency is not None
        return self.request.currency

    @property
    def major_amount(self) -> Decimal:
        return major_units(self.amount, self.currency)

    @property
    def label(self) -> str:
        """Return the text that the payer reads."""
        plan = self.request.plan
        return self.request.description or (plan and (plan.name or plan.plan_id)) or "Payment"


@dataclass(frozen=True)
class RefundRequest:
    """A refund of a paid checkout. `id` is our reference at the provider, `checkout` the provider's
    id of the payment; each `attempt` (from 1) has a key of its own."""

    id: str
    checkout: str
    amount: MinorUnits
    currency: Currency
    attempt: int


@dataclass(frozen=True)
class RefundResult:
    """A provider's result. `accepted` is whether the money is refunded, `reason` why it is not."""

    refund_id: str
    accepted: bool
    reason: str | None = None


@dataclass(frozen=True)
class StartedCheckout:
    """A started payment. `reference` is the provider's id of the payment, `url` where to send the
    payer, None if the provider prompts the payer's phone. For the other fields see
    `CheckoutStarted`."""

    reference: str
    url: str | None
    expires_at: datetime
    amount: MinorUnits
    currency: Currency
    notification_reference: str | None = None
    lookup: Mapping[str, str] = field(default_factory=dict)


class CheckoutClient(ABC):
    """Client of one account with one provider.

    `pushes_to_payer` is whether the call itself reaches the payer, who may pay although its outcome
    was never received: such a payment is announced before the call, under our own reference.
    """

    options_model: ClassVar[type[Options]] = Options
    lifetime: ClassVar[timedelta]
    pushes_to_payer: ClassVar[bool] = False

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        self.options = options
        self.http = http

    async def refund(self, request: RefundRequest) -> RefundResult | None:
        """Refund a payment; return None if the provider has no refunds. Repeated with the same
        `id`, it returns the first refund. Raise the errors of `start`."""
        return None

    def check(self, request: NewCheckout) -> None:  # noqa: B027 - optional
        """Raise `Invalid` if the provider cannot accept the request."""

    def reference(self, checkout_id: str, attempt: int) -> str:
        """Return our name for the payment at the provider. A further `attempt` (from 1) follows one
        whose outcome is unknown: a link whose response was lost never reached a payer."""
        return checkout_id

    @abstractmethod
    async def start(self, order: CheckoutRequest) -> StartedCheckout:
        """Start the payment. Raise `ProviderRejected` if nothing was started; `Upstream` or
        `RateLimited` if the same request may be retried."""

    def started_checkout(
        self, order: CheckoutRequest, reference: str, url: str | None, **more: object
    ) -> StartedCheckout:
        """Return the result for a payment of the requested amount."""
        return StartedCheckout(
            reference,
            url,
            datetime.now(UTC) + self.lifetime,
            order.amount,
            order.currency,
            **more,  # type: ignore[arg-type]
        )


class OAuthCheckoutClient(CheckoutClient):
    """Client of an API that requires an access token."""

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        super().__init__(options, http)
        self._token = OAuthToken()

    async def start(self, order: CheckoutRequest) -> StartedCheckout:
        try:
            return await self._start(order, await self._token.get(self._fetch_token))
        except NotAuthorized:
            self._token.forget()  # it may have been revoked before its expiry
            raise

    @abstractmethod
    async def _fetch_token(self) -> Object | None:
        """Return the token endpoint's response."""

    @abstractmethod
    async def _start(self, order: CheckoutRequest, token: str) -> StartedCheckout: ...


def require_whole_units(request: NewCheckout) -> None:
    """Raise `Invalid` for an amount with a fraction of the major unit."""
    assert request.amount is not None
    assert request.currency is not None
    major = major_units(request.amount, request.currency)
    if major != major.to_integral_value():
        raise Invalid(
            f"{request.provider} accepts whole amounts only, not {major} {request.currency}"
        )


def require_field(request: NewCheckout, value: object, what: str) -> None:
    """Raise `Invalid` if a value that the provider requires is missing."""
    if value is None:
        raise Invalid(f"{request.provider} requires {what}")


def require_found(answer: Object | None) -> Object:
    """Return the response. Raise `Upstream` if it was a 404."""
    if answer is None:
        raise Upstream("answers 404: check the account's base_url")
    return answer

"""Starting a payment, one module per provider."""

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
    """At most `max_concurrency` calls run together; after ten in a row without an answer there is
    none for `circuit_reset_seconds`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_concurrency: int = Field(default=100, ge=1)
    circuit_reset_seconds: float = Field(default=30, gt=0)


@dataclass(frozen=True)
class CheckoutRequest:
    """A checkout that was written down and is now to be started at the provider.

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
        """What the payer reads."""
        plan = self.request.plan
        return self.request.description or (plan and (plan.name or plan.plan_id)) or "Payment"


@dataclass(frozen=True)
class RefundRequest:
    """Money that is to go back of a paid checkout. `id` is our reference at the provider,
    `checkout` what it calls the payment; each `attempt` (from 1) has a key of its own."""

    id: str
    checkout: str
    amount: MinorUnits
    currency: Currency
    attempt: int


@dataclass(frozen=True)
class RefundResult:
    """`accepted` is whether the money goes back; `reason` why it does not."""

    refund_id: str
    accepted: bool
    reason: str | None = None


@dataclass(frozen=True)
class Started:
    """`reference` is what the provider calls the payment; `url` where to send the payer, None if
    the provider asks the payer's phone. For the rest see `CheckoutStarted`."""

    reference: str
    url: str | None
    expires_at: datetime
    amount: MinorUnits
    currency: Currency
    notification_reference: str | None = None
    lookup: Mapping[str, str] = field(default_factory=dict)


class CheckoutClient(ABC):
    """One account with one provider.

    `asks_the_payer` is whether the call itself reaches the payer, who may pay although we never
    learned its outcome: such a payment is announced before the call, under our own reference.
    """

    options_model: ClassVar[type[Options]] = Options
    lifetime: ClassVar[timedelta]
    asks_the_payer: ClassVar[bool] = False

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        self.options = options
        self.http = http

    async def refund(self, request: RefundRequest) -> RefundResult | None:
        """None where the provider has no refunds. Whoever asks again with the same `id` is told of
        the first one. Raises what `start` raises."""
        return None

    def check(self, request: NewCheckout) -> None:  # noqa: B027 - most have nothing to say
        """Raises `Invalid` when this provider could not take it."""

    def reference(self, checkout_id: str, attempt: int) -> str:
        """Our name for it at the provider. A further attempt (from 1) follows one whose outcome is
        not known: of a link whose answer was lost nobody ever heard."""
        return checkout_id

    @abstractmethod
    async def start(self, order: CheckoutRequest) -> Started:
        """Raises `Refused` when nothing was started; `Upstream` or `RateLimited` when it may be
        tried again with the same order."""

    def started(
        self, order: CheckoutRequest, reference: str, url: str | None, **more: object
    ) -> Started:
        """For a payment whose amount is the order's."""
        return Started(
            reference,
            url,
            datetime.now(UTC) + self.lifetime,
            order.amount,
            order.currency,
            **more,  # type: ignore[arg-type]
        )


class TokenClient(CheckoutClient):
    """One whose API wants an access token."""

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        super().__init__(options, http)
        self._token = OAuthToken()

    async def start(self, order: CheckoutRequest) -> Started:
        try:
            return await self._start(order, await self._token.get(self._fetch_token))
        except NotAuthorized:
            self._token.forget()  # it may have been revoked before its time
            raise

    @abstractmethod
    async def _fetch_token(self) -> Object | None:
        """The token endpoint's answer."""

    @abstractmethod
    async def _start(self, order: CheckoutRequest, token: str) -> Started: ...


def require_whole_units(request: NewCheckout) -> None:
    """Raises `Invalid` for an amount with a fraction of the major unit."""
    assert request.amount is not None
    assert request.currency is not None
    major = major_units(request.amount, request.currency)
    if major != major.to_integral_value():
        raise Invalid(
            f"{request.provider} takes whole amounts only, not {major} {request.currency}"
        )


def require_field(request: NewCheckout, value: object, what: str) -> None:
    """Raises `Invalid` when what the provider can't do without is missing."""
    if value is None:
        raise Invalid(f"{request.provider} wants {what}")


def require_found(answer: Object | None) -> Object:
    """Raises `Upstream` for an answer that nothing is at this address."""
    if answer is None:
        raise Upstream("answers 404: check the account's base_url")
    return answer

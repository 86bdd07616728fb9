"""Common interface of the payout providers' clients, which are one module each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.contracts.money import Currency
from common.errors import Invalid, Permanent, validation_faults
from payouts.domain import ProviderTransfer


class Options(BaseModel):
    """Options of an account, besides its credentials.

    `limits` are the largest payouts, in minor units by currency; a currency without a limit is not
    paid. `approval_threshold` are the amounts (minor units) above which a second person has to
    approve.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: dict[Currency, int] = Field(min_length=1)
    approval_threshold: dict[Currency, int] = Field(default_factory=dict)
    rate_per_second: float = Field(
        default=20, gt=0, le=1000, description="calls per second, of all workers together"
    )
    max_concurrency: int = Field(
        default=50, ge=1, le=500, description="concurrent calls of one worker"
    )
    circuit_reset_seconds: float = Field(
        default=30,
        gt=0,
        le=3600,
        description="nothing is sent for this long after ten failures in a row",
    )
    not_found_grace_seconds: float | None = Field(
        default=None,
        ge=0,
        description="how long after a call without a response a status check that finds nothing "
        "proves that the call had no effect; each provider has its own default",
    )

    @model_validator(mode="after")
    def _known_currencies(self) -> Options:
        if strange := self.approval_threshold.keys() - self.limits.keys():
            raise ValueError(
                f"approval_threshold has {', '.join(sorted(strange))}, which limits lacks"
            )
        return self


class RecipientDetails(BaseModel, ABC):
    """The destination of a recipient's money."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    @abstractmethod
    def masked_details(self) -> str:
        """Return a description for users, without anything that a thief could use."""

    @property
    def provider_ref(self) -> str:
        """Return the identifier by which the provider's reports name the destination; empty if they
        do not."""
        return ""


@dataclass(frozen=True)
class PayoutRequest:
    """A payout as it is sent to its provider. `id` is our reference; `amount` is in minor units;
    `known` are the provider's ids of its transfers so far; `destinations` are the provider's
    identifiers of where any attempt sent them."""

    id: str
    recipient_id: str
    amount: int
    currency: str
    details: RecipientDetails
    description: str | None
    known: tuple[str, ...] = ()
    destinations: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class ListedTransfer(ProviderTransfer):
    """A transfer in a provider's list. `reference` is our reference, if we made it, and
    `recipient_id` the recipient it was made for, if the provider repeats that: a database that has
    forgotten the payout finds it again by these. If `of_recipient` is true, the transfer is in the
    recipient's own account, `destination`, whose holder can write any value there: neither field
    proves anything then."""

    reference: str | None
    created_at: datetime
    recipient_id: str | None = None
    of_recipient: bool = False


class Incomplete(Permanent):
    """The provider's list of a day's transfers does not cover the complete day."""


class PayoutClient(ABC):
    """Client of one account. Every call raises what `json_api.request` raises, or `RateLimited`."""

    details_model: ClassVar[type[RecipientDetails]]
    options_model: ClassVar[type[Options]] = Options
    # How long after our timeout a request may still be under way at the provider.
    quiet: ClassVar[timedelta] = timedelta(seconds=30)
    # How long the provider recognises an idempotency key, with a margin; zero if it has none.
    keeps_keys: ClassVar[timedelta] = timedelta(hours=23)

    def __init__(self, options: Any, http: httpx.AsyncClient) -> None:
        self.options = options
        self._http = http

    def check(self, order: PayoutRequest) -> None:  # noqa: B027 - optional
        """Raise `Invalid` for a payout that this provider can never make."""

    def step(self, currency: str, details: RecipientDetails) -> int:
        """Return the number of minor units of which every amount has to be a multiple."""
        return 1

    @abstractmethod
    async def send(self, order: PayoutRequest, key: str) -> ProviderTransfer:
        """Send the payout. `key` is the idempotency key that was stored before."""

    @abstractmethod
    async def find(self, order: PayoutRequest, since: datetime) -> Sequence[ListedTransfer]:
        """Return every transfer that carries our reference; none was made before `since` (UTC)."""

    @abstractmethod
    def transfers(
        self, first: datetime, last: datetime, orders: Sequence[PayoutRequest]
    ) -> AsyncIterator[ListedTransfer]:
        """Yield the transfers that were made from `first` until before `last` (UTC). `orders` name
        our payouts of that time, or only recipients, for providers that have to be queried by
        recipient. Raises `Incomplete`."""


class ReadOnlyClient(PayoutClient):
    """Client of a provider that pays by its own rules: its payouts are only compared."""

    async def send(self, order: PayoutRequest, key: str) -> ProviderTransfer:
        raise Invalid("this provider pays by itself")


def read_details(model: type[RecipientDetails], details: dict[str, Any]) -> RecipientDetails:
    """Validate a recipient's details. Raises `Invalid`, which names the fields but shows none of
    their values."""
    try:
        return model.model_validate(details)
    except ValidationError as error:
        raise Invalid(f"details: {validation_faults(error)}") from None


def last_four(text: str) -> str:
    return f"…{text[-4:]}"

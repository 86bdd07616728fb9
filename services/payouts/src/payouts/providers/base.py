"""Thin clients of the providers that pay out, one module each."""

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
    """What an account may set beside its credentials.

    `limits` are the largest payouts, in minor units by currency: in others nothing is paid.
    `approval_threshold` are the amounts above which a second person has to approve.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limits: dict[Currency, int] = Field(min_length=1)
    approval_threshold: dict[Currency, int] = Field(default_factory=dict)
    rate_per_second: float = Field(default=20, gt=0, le=1000, description="calls, of all workers")
    max_concurrency: int = Field(default=50, ge=1, le=500, description="calls, of one worker")
    circuit_reset_seconds: float = Field(
        default=30, gt=0, le=3600, description="nothing is sent for so long after ten failures"
    )
    not_found_grace_seconds: float | None = Field(
        default=None,
        ge=0,
        description="how long after a call without an answer the provider's not knowing of it "
        "proves that it was not done; each provider has its own default",
    )

    @model_validator(mode="after")
    def _known_currencies(self) -> Options:
        if strange := self.approval_threshold.keys() - self.limits.keys():
            raise ValueError(f"approval_threshold has {', '.join(sorted(strange))}, limits has not")
        return self


class RecipientDetails(BaseModel, ABC):
    """Where a recipient's money goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    @abstractmethod
    def masked_details(self) -> str:
        """For people, without what would be of use to a thief."""

    @property
    def provider_ref(self) -> str:
        """By which the provider's reports name where money went; empty if they don't."""
        return ""


@dataclass(frozen=True)
class PayoutRequest:
    """A payout as its provider is told of it. `id` is our reference; `amount` is in minor units,
    `known` the provider's names of its transfers so far, `destinations` its names of where any
    attempt sent them."""

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
    """A transfer in a provider's list. `reference` is what we called it, if we made it, and
    `recipient_id` whom we made it for, if the provider repeats that: so a database that has
    forgotten the payout finds it again. `of_recipient` is whether it is in the recipient's own
    account, `destination`, whose holder may write what they like: both prove nothing then."""

    reference: str | None
    created_at: datetime
    recipient_id: str | None = None
    of_recipient: bool = False


class Incomplete(Permanent):
    """The provider's list of the transfers of a day ends before the day does."""


class PayoutClient(ABC):
    """Of one account. Every call raises what `json_api.call` raises, or `RateLimited`."""

    details_model: ClassVar[type[RecipientDetails]]
    options_model: ClassVar[type[Options]] = Options
    # A request may still be under way at the provider so long after we stopped waiting for it.
    quiet: ClassVar[timedelta] = timedelta(seconds=30)
    # How long the provider recognises an idempotency key, with a margin; none where it has none.
    keeps_keys: ClassVar[timedelta] = timedelta(hours=23)

    def __init__(self, options: Any, http: httpx.AsyncClient) -> None:
        self.options = options
        self._http = http

    def check(self, order: PayoutRequest) -> None:  # noqa: B027 - most have nothing against it
        """Raises `Invalid` for what this provider could never do."""

    def step(self, currency: str, details: RecipientDetails) -> int:
        """What every amount has to be a multiple of, in minor units."""
        return 1

    @abstractmethod
    async def send(self, order: PayoutRequest, key: str) -> ProviderTransfer:
        """Pay. `key` is the idempotency key that was kept before."""

    @abstractmethod
    async def find(self, order: PayoutRequest, since: datetime) -> Sequence[ListedTransfer]:
        """Every transfer that carries our reference, none made before `since` (UTC)."""

    @abstractmethod
    def transfers(
        self, first: datetime, last: datetime, orders: Sequence[PayoutRequest]
    ) -> AsyncIterator[ListedTransfer]:
        """Those that were made from `first` until before `last` (UTC). `orders` are ours of that
        time, where the provider has to be told about whom it is asked. Raises `Incomplete`."""


class ReadOnlyClient(PayoutClient):
    """A provider that pays by its own rules: what it did is only compared."""

    async def send(self, order: PayoutRequest, key: str) -> ProviderTransfer:
        raise Invalid("this provider pays by itself")


def read_details(model: type[RecipientDetails], details: dict[str, Any]) -> RecipientDetails:
    """Raises `Invalid`, which names the fields and shows none of their values."""
    try:
        return model.model_validate(details)
    except ValidationError as error:
        raise Invalid(f"details: {validation_faults(error)}") from None


def last_four(text: str) -> str:
    return f"…{text[-4:]}"

"""Base of the provider modules; each authenticates and translates its provider's calls."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

import limits
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json
from starlette.datastructures import Headers

from common.contracts.event import Event, Payload, Trust, event_model
from common.contracts.payments import ProviderEvent
from common.errors import PaybusError, validation_faults
from common.observability import tracing
from webhook_gateway.providers.endpoint import Endpoint

Object = Mapping[str, Any]


class VerificationFailed(PaybusError):
    """The call is not authentic. The message states the reason and contains nothing of the call."""


class UntranslatableWebhook(PaybusError):
    """The call cannot be translated."""


class OtherGeneration(UntranslatableWebhook):
    """The call is of another API of the provider. The message names the one that is supported."""


def _rate(value: str) -> str:
    try:
        limits.parse(value)
    except ValueError:
        raise ValueError("must look like 6000/minute") from None
    return value


@dataclass(frozen=True)
class Authentication:
    """The trust level of a call. `occasion` distinguishes calls with identical bodies, for a
    provider that repeats a body for different occurrences."""

    trust: Trust
    occasion: str | None = None


class Options(BaseModel):
    """Settings of an endpoint of this provider besides its secrets. `rate_limit` limits the
    accepted calls, such as `6000/minute`; the default is the provider's `usual_rate`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_limit: Annotated[str, AfterValidator(_rate)] | None = None


class Provider(ABC):
    """One endpoint of one provider. Subclasses define its name, verification and translation."""

    name: ClassVar[str]
    methods: ClassVar[frozenset[str]] = frozenset({"POST"})
    needs_secret: ClassVar[bool] = True
    # Ten times the traffic of the busiest accounts; a minute's volume may arrive in one burst.
    usual_rate: ClassVar[str] = "600000/minute"
    options_model: ClassVar[type[Options]] = Options

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        self.endpoint = endpoint
        self.options = options
        self.secrets = [each.get_secret_value() for each in endpoint.secrets]
        self.source = endpoint.source
        self.rate_limit = options.rate_limit or self.usual_rate

    @abstractmethod
    async def verify(self, headers: Headers, body: bytes) -> Authentication:
        """Verify the call's authenticity. Raises `VerificationFailed`, or `Unavailable` when it
        cannot be decided now."""

    def translate(self, body: bytes, proof: Authentication) -> Sequence[Event[Any]]:
        """Return the domain events of a verified call. The same call yields the same event ids.

        Raises `UntranslatableWebhook`.
        """
        try:
            webhook = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise UntranslatableWebhook(f"the body is not JSON: {error}") from None
        try:
            events = self._translate(webhook, proof)
        except ValidationError as error:
            raise UntranslatableWebhook(validation_faults(error)) from None
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise UntranslatableWebhook(
                f"not a call as {self.name} describes it: {type(error).__name__}: {error}"
            ) from None
        if not events:  # an answer of 2xx would lose it
            raise UntranslatableWebhook("the call becomes no event")
        return events

    @abstractmethod
    def _translate(self, webhook: Any, proof: Authentication) -> Sequence[Event[Any]]:
        """Translate the parsed body. May raise any error of reading an unexpected structure."""

    def event(
        self,
        type_: str,
        data: Payload,
        *,
        id_: str,
        subject: str,
        proof: Authentication,
        time: datetime | None = None,
    ) -> Event[Any]:
        now = datetime.now(UTC)
        return event_model(type(data))(
            id=id_,
            source=self.source,
            type=type_,
            subject=f"{self.name}/{subject}",
            time=time or now,
            recordedtime=now,
            tenant=self.endpoint.tenant,
            correlationid=id_,
            traceparent=tracing.traceparent(),
            trust=proof.trust,
            data=data,
        )

    def passthrough_event(
        self,
        type_: str,
        body: dict[str, Any],
        *,
        id_: str,
        proof: Authentication,
        time: datetime | None = None,
        not_served: str | None = None,
    ) -> Event[Any]:
        """Return the event that records a verified call in the journal: of a type without a
        translation, or one that the endpoint does not serve.

        Raises `ValueError` for a body that cannot be parsed inside an envelope.
        """
        event = self.event(
            f"provider.{self.name}.{type_}",
            ProviderEvent(
                provider=self.name, provider_type=type_, body=body, not_served=not_served
            ),
            id_=id_,
            subject=id_,
            proof=proof,
            time=time,
        )
        from_json(event.encode())  # the body is nested deeper there
        return event


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()

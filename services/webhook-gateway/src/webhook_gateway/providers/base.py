"""One module per provider: how its calls are authenticated, and what they mean."""

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
    """The call is not authentic. The message names the reason and shows nothing of the call."""


class UntranslatableWebhook(PaybusError):
    """The call can't be understood."""


def _rate(value: str) -> str:
    try:
        limits.parse(value)
    except ValueError:
        raise ValueError("must look like 6000/minute") from None
    return value


@dataclass(frozen=True)
class Authentication:
    """How far a call can be trusted. `occasion` tells two calls with the same body apart, where a
    provider says the same words of different things."""

    trust: Trust
    occasion: str | None = None


class Options(BaseModel):
    """What an endpoint of this provider may set besides its secrets. `rate_limit` is how many calls
    it takes, such as `6000/minute`; left out, it is the provider's `usual_rate`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_limit: Annotated[str, AfterValidator(_rate)] | None = None


class Provider(ABC):
    """One endpoint of one provider. Subclasses say the provider's name, and its two rules."""

    name: ClassVar[str]
    methods: ClassVar[frozenset[str]] = frozenset({"POST"})
    needs_secret: ClassVar[bool] = True
    # Ten times what the busiest accounts send, and bursts of a whole minute's at once.
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
        """Raises `VerificationFailed`, or `Unavailable` when it can't be told now."""

    def translate(self, body: bytes, proof: Authentication) -> Sequence[Event[Any]]:
        """The domain events of a verified call; the same call gives the same event ids.

        Raises `UntranslatableWebhook`.
        """
        try:
            webhook = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise UntranslatableWebhook(f"the body is not JSON: {error}") from None
        try:
            return self._translate(webhook, proof)
        except ValidationError as error:
            raise UntranslatableWebhook(validation_faults(error)) from None
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise UntranslatableWebhook(
                f"not a call as {self.name} describes it: {type(error).__name__}: {error}"
            ) from None

    @abstractmethod
    def _translate(self, webhook: Any, proof: Authentication) -> Sequence[Event[Any]]:
        """What the parsed body means. May raise what reading a strange structure raises."""

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
        """A verified call of a type that nobody asked for yet goes to the journal; so does one that
        the endpoint does not serve.

        Raises `ValueError` for a body that nobody could read inside an envelope.
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
        from_json(event.encode())  # it is nested deeper there
        return event


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()

"""Envelope of every message: CloudEvents 1.0, structured JSON.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Final, Generic, Literal, TypeVar
from uuid import NAMESPACE_URL, uuid5

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from common.errors import validation_faults

CONTENT_TYPE: Final = "application/cloudevents+json"

# An id of a provider or of Paybus.
Id = Annotated[str, Field(min_length=1, max_length=255)]

Trust = Literal["signature", "secret", "requery", "none"]


class Payload(BaseModel):
    """Base of every event's data. Producers can't add a field; consumers ignore unknown ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")


PayloadT = TypeVar("PayloadT", bound=Payload)


class Event(BaseModel, Generic[PayloadT]):
    """One event, identified by (`source`, `id`), however often it is delivered.

    `time` is when it happened at its origin, `recordedtime` when Paybus recorded it, both in UTC.
    `correlationid` is the id of the first event of the chain, `causationid` that of the direct
    cause. `sequence` is the producer's version of `subject`: a consumer retains the highest it has
    seen. `trust` is how the origin was authenticated: a signature over the body, a plain secret,
    our own status query to the provider, or not at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    specversion: Literal["1.0"] = "1.0"
    id: Id
    source: Id
    type: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,255}$")  # also the AMQP routing key
    subject: Id
    time: AwareDatetime
    recordedtime: AwareDatetime
    datacontenttype: Literal["application/json"] = "application/json"
    tenant: str = Field(min_length=1, max_length=64)
    correlationid: str
    causationid: str | None = None
    traceparent: str | None = None
    trust: Trust
    sequence: int | None = None
    data: PayloadT

    def encode(self) -> bytes:
        """Return the message body. Unset attributes are omitted; the data retains its nulls."""
        unset = {name for name in _OPTIONAL if getattr(self, name) is None}
        return self.model_dump_json(exclude=unset).encode()


_OPTIONAL = ("causationid", "traceparent", "sequence")


class DecodeError(ValueError):
    """The message is not an event of a known type."""


class Unheard(DecodeError):
    """Event type or enumeration value that a newer version may know: during an update old replicas
    receive its events, too."""


def decode(body: bytes, model_of: Callable[[str], type[Payload]]) -> Event[Any]:
    """Parse a message; `model_of` maps an event type to its payload model.

    Raise `DecodeError`, or its subclass `Unheard`, with the invalid fields but none of their
    values.
    """
    try:
        raw = from_json(body)
    except ValueError as error:
        raise DecodeError(f"not JSON: {error}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
        raise DecodeError("no CloudEvents envelope: expected a JSON object with a `type`")
    try:
        return event_model(model_of(raw["type"])).model_validate(raw, extra="ignore")
    except LookupError as error:
        raise Unheard(str(error)) from None
    except ValidationError as error:
        kinds = {each["type"] for each in error.errors(include_input=False, include_url=False)}
        fault = Unheard if kinds <= {"enum", "literal_error"} else DecodeError
        raise fault(f"{raw['type']}: {validation_faults(error)}") from None


@lru_cache(maxsize=256)
def event_model(payload: type[PayloadT]) -> type[Event[PayloadT]]:
    """Return `Event` with this payload, cached because pydantic's own lookup is slower."""
    return Event[payload]  # type: ignore[valid-type]


def derived_id(*parts: str) -> str:
    """Return a UUIDv5 (RFC 9562) of the parts: the same parts give the same id in every process."""
    return str(uuid5(NAMESPACE_URL, "urn:paybus:" + "\x1f".join(parts)))

"""A message as it arrived."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from aiormq.abc import AbstractChannel, DeliveredMessage

from common.contracts import registry
from common.contracts.event import DecodeError, Event
from common.messaging import refill, replay
from common.messaging.connection import describe
from common.messaging.dead_letter import Failures

# A quorum queue's own header: how often it was given back or its consumer was lost.
_RETURNS = "x-delivery-count"
# The broker's mark on what came back from the retry ladder.
_LADDER = "x-death"
_SUSPECT_RETURNS = 2
_KEPT = frozenset({refill.ORDER, replay.MARK})


@dataclass(frozen=True)
class Delivery:
    """`event` is None when it could not be decoded."""

    channel: AbstractChannel
    tag: int
    body: bytes
    headers: Mapping[str, Any]
    failures: Failures
    event: Event[Any] | None
    decode_error: DecodeError | None

    @classmethod
    def of(cls, channel: AbstractChannel, message: DeliveredMessage) -> Self:
        """Never fails: a message that did not arrive would be skipped over."""
        headers = message.header.properties.headers or {}
        event, fault = None, None
        try:
            event = registry.decode(message.body)
        except DecodeError as error:
            fault = error
        except Exception as error:  # noqa: BLE001
            fault = DecodeError(describe(error))
        assert message.delivery_tag is not None
        return cls(
            channel,
            message.delivery_tag,
            message.body,
            headers,
            Failures.of(headers),
            event,
            fault,
        )

    @property
    def alone(self) -> bool:
        """Whether to run it with no other: an order to refill, or a message that came back more
        than once without an outcome, so that it or a neighbour may be killing the process."""
        if refill.ordered(self.headers):
            return True
        returns = self.headers.get(_RETURNS, 0)
        return isinstance(returns, int) and returns >= _SUSPECT_RETURNS

    @property
    def waits_since(self) -> float:
        """When it came to the queue, as far as can be told, in seconds since 1970: an event's
        record for its first delivery, and now for what waited on the ladder or is sent again."""
        if self.event is None or _LADDER in self.headers or replay.MARK in self.headers:
            return time.time()
        return self.event.recordedtime.timestamp()

    @property
    def kept_headers(self) -> dict[str, Any]:
        """What goes with the message, up the retry ladder and into the dead letters: that it is an
        order to refill, or part of a replay."""
        return {key: value for key, value in self.headers.items() if key in _KEPT}

"""A message as it arrived."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Self

from aiormq.abc import AbstractChannel, DeliveredMessage

from common.contracts import registry
from common.contracts.event import DecodeError, Event
from common.errors import describe
from common.messaging import queue_recovery, replay_marker
from common.messaging.dead_letter import FailureHistory

# A quorum queue's own header: how often it was given back or its consumer was lost.
_RETURNS = "x-delivery-count"
# The broker's mark on what came back from the retry ladder.
_LADDER = "x-death"
_SUSPECT_RETURNS = 2
# Of an envelope, in which it comes before the data.
_RECORDED = re.compile(rb'"recordedtime":\s*"([^"]{1,40})"')
_KEPT = frozenset({queue_recovery.ORDER, replay_marker.MARK})


@dataclass(frozen=True)
class Delivery:
    """Decoded when it is looked at, and not as it arrives: decoded it takes several times as much
    memory, and many may wait."""

    channel: AbstractChannel
    tag: int
    body: bytes
    headers: Mapping[str, Any]
    failures: FailureHistory

    @classmethod
    def of(cls, channel: AbstractChannel, message: DeliveredMessage) -> Self:
        """Never fails: a message that did not arrive would be skipped over."""
        headers = message.header.properties.headers or {}
        assert message.delivery_tag is not None
        return cls(channel, message.delivery_tag, message.body, headers, FailureHistory.of(headers))

    @property
    def event(self) -> Event[Any] | None:
        """None when it can't be decoded."""
        return None if isinstance(self._decoded, DecodeError) else self._decoded

    @property
    def decode_error(self) -> DecodeError | None:
        return self._decoded if isinstance(self._decoded, DecodeError) else None

    @cached_property
    def _decoded(self) -> Event[Any] | DecodeError:
        try:
            return registry.decode(self.body)
        except DecodeError as error:
            return error
        except Exception as error:  # noqa: BLE001
            return DecodeError(describe(error))

    @property
    def alone(self) -> bool:
        """Whether to run it with no other: an order to refill, or a message that came back more
        than once without an outcome, so that it or a neighbour may be killing the process."""
        if queue_recovery.is_recovery(self.headers):
            return True
        returns = self.headers.get(_RETURNS, 0)
        return isinstance(returns, int) and returns >= _SUSPECT_RETURNS

    @property
    def waits_since(self) -> float:
        """When it came to the queue, as far as can be told, in seconds since 1970: an event's
        record for its first delivery, and now for what waited on the ladder or is sent again."""
        recorded = _RECORDED.search(self.body)
        if recorded is None or _LADDER in self.headers or replay_marker.MARK in self.headers:
            return time.time()
        try:
            return datetime.fromisoformat(recorded[1].decode()).timestamp()
        except ValueError:
            return time.time()

    @property
    def kept_headers(self) -> dict[str, Any]:
        """What goes with the message, up the retry ladder and into the dead letters: that it is an
        order to refill, or part of a replay."""
        return {key: value for key, value in self.headers.items() if key in _KEPT}

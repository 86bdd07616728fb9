"""A message as the broker delivered it."""

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

# A quorum queue's own header: how often the message was returned or its consumer was lost.
_RETURNS = "x-delivery-count"
# Header that the broker adds to a message returned from the retry ladder.
_LADDER = "x-death"
_SUSPECT_RETURNS = 2
# Matches the envelope's attribute, which precedes the data.
_RECORDED = re.compile(rb'"recordedtime":\s*"([^"]{1,40})"')
_KEPT = frozenset({queue_recovery.ORDER, replay_marker.MARK})


@dataclass(frozen=True)
class Delivery:
    """Message that is decoded on first access, not on arrival.

    A decoded message takes several times as much memory, and many may wait.
    """

    channel: AbstractChannel
    tag: int
    body: bytes
    headers: Mapping[str, Any]
    failures: FailureHistory

    @classmethod
    def of(cls, channel: AbstractChannel, message: DeliveredMessage) -> Self:
        """Return the delivery. Never fails: a message that did not arrive would be skipped."""
        headers = message.header.properties.headers or {}
        assert message.delivery_tag is not None
        return cls(channel, message.delivery_tag, message.body, headers, FailureHistory.of(headers))

    @property
    def event(self) -> Event[Any] | None:
        """Return the decoded event; None when the message can't be decoded."""
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
        """Return whether to run the message without others.

        That is so for a refill request, and for a message that was returned more than once without
        an outcome: it or a neighbour may be crashing the process.
        """
        if queue_recovery.is_recovery(self.headers):
            return True
        returns = self.headers.get(_RETURNS, 0)
        return isinstance(returns, int) and returns >= _SUSPECT_RETURNS

    @property
    def waits_since(self) -> float:
        """Return the best known time when it came to the queue, in seconds since 1970.

        It is the event's `recordedtime` for a first delivery, and now for a retried or replayed
        message.
        """
        recorded = _RECORDED.search(self.body)
        if recorded is None or _LADDER in self.headers or replay_marker.MARK in self.headers:
            return time.time()
        try:
            return datetime.fromisoformat(recorded[1].decode()).timestamp()
        except ValueError:
            return time.time()

    @property
    def kept_headers(self) -> dict[str, Any]:
        """Return the headers that stay on the message through retries and dead letters: those of a
        refill request or a replay item."""
        return {key: value for key, value in self.headers.items() if key in _KEPT}

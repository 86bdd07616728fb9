"""Backoff from destinations that the broker does not confirm, such as those of a full queue.

Their messages wait while all others continue. Each attempt at a rejected message may add a copy to
the journal, so one message is tried for all of them, at growing intervals.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from aiormq.exceptions import ChannelAccessRefused

from common.errors import Unavailable
from common.messaging.publisher import NotTaken, Unroutable
from common.observability.logging import get_logger

log = get_logger(__name__)

Destination = tuple[str, str]
"""Exchange and routing key."""

Outcome = Unavailable | None
"""Why a message was not confirmed; None if it was."""

REJECTIONS: Final = (NotTaken, Unroutable)

_FIRST_SECONDS = 0.5
_MAX_SECONDS = 10.0


@dataclass
class _State:
    """Monotonic times in seconds: since when the oldest message waits, and when one is tried
    again."""

    since: float
    retry_at: float
    failures: int = 1


class DestinationBackoff:
    """State of the rejecting destinations. `what` names the waiting messages in the log."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._states: dict[Destination, _State] = {}

    def blocked(self) -> list[Destination]:
        return list(self._states)

    def due(self) -> list[Destination]:
        """Return the blocked destinations to which one message may be tried now."""
        now = time.monotonic()
        return [destination for destination, state in self._states.items() if state.retry_at <= now]

    @property
    def oldest_seconds(self) -> float:
        now = time.monotonic()
        return max((now - state.since for state in self._states.values()), default=0.0)

    def rejected(self, destination: Destination, error: Unavailable, *, age: float = 0.0) -> None:
        """Record a rejection by a broker that is up. `age` is the message's, in seconds."""
        now = time.monotonic()
        state = self._states.get(destination)
        if state is None:
            self._states[destination] = _State(now - age, now + _FIRST_SECONDS)
            exchange, routing_key = destination
            log.warning(
                "destination_rejects_messages",
                what=self._what,
                exchange=exchange,
                routing_key=routing_key,
                error=str(error),
            )
        elif state.retry_at <= now:  # not part of the batch that was rejected first
            state.failures += 1
            interval = _FIRST_SECONDS * 2.0 ** min(state.failures, 10)
            state.retry_at = now + min(interval, _MAX_SECONDS)

    def not_tried(self, destination: Destination) -> None:
        """Postpone the next try: the broker was down, so nothing is known about the destination."""
        if (state := self._states.get(destination)) is not None:
            state.retry_at = time.monotonic() + _FIRST_SECONDS

    def release(self, destinations: Iterable[Destination]) -> bool:
        """Unblock those destinations that did not reject again; return whether there were any."""
        now = time.monotonic()
        released = [each for each in destinations if self._states[each].retry_at <= now]
        for exchange, routing_key in released:
            del self._states[exchange, routing_key]
            log.info(
                "destination_accepts_messages",
                what=self._what,
                exchange=exchange,
                routing_key=routing_key,
            )
        return bool(released)


async def separate_refused(
    destinations: Sequence[Destination],
    outcomes: list[Outcome],
    publish: Callable[[Sequence[int]], Awaitable[Sequence[Outcome]]],
) -> None:
    """If this login may not publish one of a batch's messages, publish again what was not
    confirmed, each destination separately: such a publish closes the channel for all others.

    `publish` publishes the messages with these numbers. Messages that this login may not publish
    are then `NotTaken`.
    """
    if not any(map(_is_refused, outcomes)):
        return
    numbers: dict[Destination, list[int]] = {}
    for number, (destination, outcome) in enumerate(zip(destinations, outcomes, strict=True)):
        if outcome is not None:
            numbers.setdefault(destination, []).append(number)
    for (exchange, routing_key), some in numbers.items():
        found = await publish(some)
        if any(map(_is_refused, found)):
            refused = NotTaken(
                f"this service's login may not publish {routing_key!r} to {exchange!r}: import "
                "the broker's definitions of this version (docs/guides/deploy.md)"
            )
            found = [each and refused for each in found]
        for number, outcome in zip(some, found, strict=True):
            outcomes[number] = outcome


def _is_refused(outcome: Outcome) -> bool:
    return outcome is not None and isinstance(outcome.__cause__, ChannelAccessRefused)

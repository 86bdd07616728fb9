"""Destinations that the broker does not confirm, such as a full queue's.

What is for them waits, and everything else goes on. Each time that a refused message is tried the
journal may get a copy, so a single one is tried for all, and more and more rarely.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from common.errors import Unavailable
from common.logs import get_logger
from common.messaging.publisher import NotTaken, Unroutable

log = get_logger(__name__)

Destination = tuple[str, str]
"""Exchange and routing key."""

REFUSALS: Final = (NotTaken, Unroutable)

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0


@dataclass
class _Hold:
    """Monotonic seconds: the oldest message is there `since`, and nothing is tried `until`."""

    since: float
    until: float
    failures: int = 1


class Holds:
    """`what` waits, for the log."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._holds: dict[Destination, _Hold] = {}

    def all(self) -> list[Destination]:
        return list(self._holds)

    def due(self) -> list[Destination]:
        """Those of which one message may be tried."""
        now = time.monotonic()
        return [destination for destination, hold in self._holds.items() if hold.until <= now]

    @property
    def oldest_seconds(self) -> float:
        now = time.monotonic()
        return max((now - hold.since for hold in self._holds.values()), default=0.0)

    def refused(self, destination: Destination, error: Unavailable, *, age: float = 0.0) -> None:
        """By the broker, which is there. `age` is the message's, in seconds."""
        now = time.monotonic()
        hold = self._holds.get(destination)
        if hold is None:
            self._holds[destination] = _Hold(now - age, now + _FIRST_PAUSE)
            exchange, routing_key = destination
            log.warning(
                "what a queue refuses waits, and holds up nothing else",
                what=self._what,
                exchange=exchange,
                routing_key=routing_key,
                error=str(error),
            )
        elif hold.until <= now:  # not of the batch that showed it first
            hold.failures += 1
            hold.until = now + min(_FIRST_PAUSE * 2.0 ** min(hold.failures, 10), _LONGEST_PAUSE)

    def not_tried(self, destination: Destination) -> None:
        """The broker was away, which says nothing of the destination."""
        if (hold := self._holds.get(destination)) is not None:
            hold.until = time.monotonic() + _FIRST_PAUSE

    def end(self, destinations: Iterable[Destination]) -> bool:
        """Of those that were not refused again; whether there was one."""
        now = time.monotonic()
        ended = [each for each in destinations if self._holds[each].until <= now]
        for exchange, routing_key in ended:
            del self._holds[exchange, routing_key]
            log.info("goes on", what=self._what, exchange=exchange, routing_key=routing_key)
        return bool(ended)

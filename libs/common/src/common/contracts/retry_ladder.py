"""Delays between attempts, and the queues in which messages wait for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from common.contracts.topology import RETRIES

QUEUE_PREFIX = "retry."


_LONGEST_RUNG_SECONDS = 24 * 3600


_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class RetryDelay:
    """One `retry.<name>` queue; a message stays in it for `seconds`."""

    name: str
    seconds: float

    @property
    def queue(self) -> str:
        return f"{QUEUE_PREFIX}{self.name}"

    @property
    def exchange(self) -> str:
        return f"{RETRIES}.{self.name}"


class RetryLadder:
    """Delays between attempts, shared by all consumers: `RetryLadder.parse("5s,30s,2m")`."""

    def __init__(self, rungs: Sequence[RetryDelay]) -> None:
        if not rungs:
            raise ValueError("a retry ladder needs at least one rung")
        self.rungs = tuple(sorted(rungs, key=lambda rung: rung.seconds))

    @classmethod
    def parse(cls, text: str) -> RetryLadder:
        rungs = []
        for part in text.split(","):
            match = re.fullmatch(r"(\d+)(ms|s|m|h)", part.strip())
            if match is None:
                raise ValueError(f"{part.strip()!r} is not a delay such as 5s, 2m or 1h")
            seconds = int(match[1]) * _UNITS[match[2]]
            if not 0 < seconds <= _LONGEST_RUNG_SECONDS:
                raise ValueError(f"{part.strip()} is not a delay between 1ms and 24h")
            rungs.append(RetryDelay(part.strip(), seconds))
        return cls(rungs)

    def at_least(self, seconds: float) -> RetryDelay:
        """Return the shortest delay of at least `seconds`, or the longest one if none is."""
        return next((rung for rung in self.rungs if rung.seconds >= seconds), self.rungs[-1])

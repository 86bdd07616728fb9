"""Waiting for a condition with a deadline. Fixed durations are used only for outages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

ValueT = TypeVar("ValueT")

# No test measures speed: a busy machine may take this long.
PATIENCE_SECONDS = 90.0


def poll(condition: Callable[[], ValueT], *, seconds: float, pause: float = 0.05) -> ValueT:
    """Call until it returns something true or the time is over; return the last value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(pause)
    return value


def until(
    condition: Callable[[], ValueT],
    *,
    what: str,
    seconds: float = PATIENCE_SECONDS,
    pause: float = 0.05,
) -> ValueT:
    """Call until it returns something true; return that. Fails with `what` and the last value."""
    value = poll(condition, seconds=seconds, pause=pause)
    if not value:
        raise AssertionError(f"not within {seconds} s: {what}; last seen: {value!r}")
    return value


class Steady:
    """Measures how long a value has stayed the same, by the times it was sampled."""

    def __init__(self) -> None:
        self._value: object = None
        self._since = time.monotonic()

    def seconds(self, value: object) -> float:
        if value != self._value:
            self._value, self._since = value, time.monotonic()
        return time.monotonic() - self._since


def trouble_lasts(seconds: float) -> None:
    """Keep a fault in place for this long. Tests must not expect anything to have happened by its
    end."""
    time.sleep(seconds)


async def until_async(
    condition: Callable[[], Awaitable[ValueT]], *, what: str, seconds: float = PATIENCE_SECONDS
) -> ValueT:
    deadline = time.monotonic() + seconds
    while not (value := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; last seen: {value!r}")
        await asyncio.sleep(0.05)
    return value

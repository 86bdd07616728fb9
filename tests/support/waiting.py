"""Waiting for a condition, with a deadline; never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

ValueT = TypeVar("ValueT")


def until(
    condition: Callable[[], ValueT], *, what: str, seconds: float = 30, pause: float = 0.05
) -> ValueT:
    """Call until it returns something true; return that. Fails with `what` and the last value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; last seen: {value!r}")
        time.sleep(pause)
    return value


async def until_async(
    condition: Callable[[], Awaitable[ValueT]], *, what: str, seconds: float = 30
) -> ValueT:
    deadline = time.monotonic() + seconds
    while not (value := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; last seen: {value!r}")
        await asyncio.sleep(0.05)
    return value

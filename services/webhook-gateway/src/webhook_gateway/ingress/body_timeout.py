"""Ending what takes too long, for many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class BodyTimeout:
    """Cancels what takes longer than `seconds`, up to `look_seconds` later. A timer for each call
    would cost half of what its signature does."""

    def __init__(self, seconds: float, *, look_seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._look_seconds = look_seconds
        self._begun: dict[asyncio.Task[Any], float] = {}  # the oldest first
        self._stop = asyncio.Event()

    async def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Raises `TimeoutError`. One at a time in a task."""
        task = asyncio.current_task()
        assert task is not None
        self._begun[task] = time.monotonic()
        try:
            return await work
        except asyncio.CancelledError:
            if task in self._begun:
                raise  # not by us
            task.uncancel()
            raise TimeoutError from None
        finally:
            self._begun.pop(task, None)

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        while not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._look_seconds)
            self._look()

    def _look(self) -> None:
        latest = time.monotonic() - self._seconds
        late = []
        for task, begun in self._begun.items():
            if begun > latest:
                break
            late.append(task)
        for task in late:
            del self._begun[task]
            task.cancel()

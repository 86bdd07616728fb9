"""Timeouts for many concurrent operations with one shared timer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class BodyTimeout:
    """Cancels work that takes longer than `seconds`, up to `look_seconds` late. A timer per call
    would cost half as much as verifying its signature."""

    def __init__(self, seconds: float, *, look_seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._look_seconds = look_seconds
        self._begun: dict[asyncio.Task[Any], float] = {}  # oldest first
        self._stop = asyncio.Event()

    async def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; one at a time per task. Raises `TimeoutError`."""
        task = asyncio.current_task()
        assert task is not None
        self._begun[task] = time.monotonic()
        try:
            return await work
        except asyncio.CancelledError:
            if task in self._begun:
                raise  # cancelled by other code
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

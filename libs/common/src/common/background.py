"""Periodic tasks that run until they are stopped."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress


class PeriodicTask(ABC):
    """Task that runs `step` every `interval` seconds, and again immediately while it returns
    True."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        while not self._stop.is_set():
            if not await self.step():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), self._interval)

    @abstractmethod
    async def step(self) -> bool:
        """Return whether more work is due now. An exception ends the task."""

"""Work that a process does at an interval, until it is stopped."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress


class PeriodicTask(ABC):
    """Runs `step` every `interval` seconds; at once again while it returns that there is more."""

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
        """Whether there is more to do now. What it raises ends the task."""

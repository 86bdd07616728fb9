"""Gauges of what stands in a database. Every replica asks it, so that all of them say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import sqlalchemy.exc
from sqlalchemy.ext.asyncio import AsyncSession

from common.database import Sessions
from common.logs import get_logger
from common.messaging.connection import describe

log = get_logger(__name__)

_EVERY_SECONDS = 15.0


class Meter:
    """Runs `measure` every 15 seconds."""

    def __init__(
        self, sessions: Sessions, measure: Callable[[AsyncSession], Awaitable[None]]
    ) -> None:
        self._sessions = sessions
        self._measure = measure
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        while not self._stop.is_set():
            try:
                async with self._sessions.begin() as session:
                    await self._measure(session)
            except sqlalchemy.exc.SQLAlchemyError as error:
                log.warning("what waits can't be counted", error=describe(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _EVERY_SECONDS)

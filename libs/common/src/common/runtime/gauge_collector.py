"""Gauges of database state. Every replica queries it, so that all report the same values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from enum import StrEnum

import sqlalchemy.exc
from prometheus_client import Gauge
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from common.background import PeriodicTask
from common.db.database import Sessions
from common.errors import describe
from common.observability.logging import get_logger

log = get_logger(__name__)

_EVERY_SECONDS = 15.0


class GaugeCollector(PeriodicTask):
    """Task that runs `measure` every 15 seconds."""

    def __init__(
        self, sessions: Sessions, measure: Callable[[AsyncSession], Awaitable[None]]
    ) -> None:
        super().__init__(_EVERY_SECONDS)
        self._sessions = sessions
        self._measure = measure

    async def step(self) -> bool:
        try:
            async with self._sessions.begin() as session:
                await self._measure(session)
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("gauge_collection_failed", error=describe(error))
        return False


async def set_by_state(
    session: AsyncSession,
    *,
    state: InstrumentedAttribute[str],
    since: InstrumentedAttribute[datetime],
    states: Sequence[StrEnum],
    waiting: Gauge,
    oldest_seconds: Gauge,
) -> None:
    """Set the number of rows in each of the states, and the age of the oldest (seconds)."""
    age = func.extract("epoch", func.now() - func.min(since))
    query = select(state, func.count(), age).where(state.in_([str(each) for each in states]))
    rows = (await session.execute(query.group_by(state))).all()
    found = {name: (count, seconds) for name, count, seconds in rows}
    for each in states:
        count, seconds = found.get(each, (0, 0))
        waiting.labels(each).set(count)
        oldest_seconds.labels(each).set(float(seconds))

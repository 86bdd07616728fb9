"""The gauges of what waits. Every worker asks the database, so that all of them say the same."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import sqlalchemy.exc
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from common.database import Sessions
from common.logs import get_logger
from common.messaging.connection import describe
from payouts import metrics
from payouts.domain import State
from payouts.models import Difference, Payout

log = get_logger(__name__)

_EVERY_SECONDS = 15.0
_UNSETTLED = (
    State.SCHEDULED,
    State.APPROVED,
    State.SUBMITTING,
    State.UNKNOWN,
    State.SUBMITTED,
    State.FAILED,
)


class Meter:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        while not self._stop.is_set():
            try:
                async with self._sessions() as session:
                    await _measure(session)
            except sqlalchemy.exc.SQLAlchemyError as error:
                log.warning("what waits can't be counted", error=describe(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _EVERY_SECONDS)


async def _measure(session: AsyncSession) -> None:
    age = func.extract("epoch", func.now() - func.min(Payout.updated_at))
    query = (
        select(Payout.state, func.count(), age)
        .where(Payout.state.in_([str(each) for each in _UNSETTLED]))
        .group_by(Payout.state)
    )
    found = {state: (count, age) for state, count, age in (await session.execute(query)).all()}
    for state in _UNSETTLED:
        count, oldest = found.get(state, (0, 0))
        metrics.waiting.labels(state).set(count)
        metrics.oldest_seconds.labels(state).set(float(oldest))
    unresolved = select(func.count(Difference.id)).where(Difference.resolved_at.is_(None))
    metrics.differences.set(await session.scalar(unresolved) or 0)

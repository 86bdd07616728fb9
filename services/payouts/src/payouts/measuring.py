"""The gauges of what waits."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from payouts import metrics
from payouts.domain import State
from payouts.models import Difference, Payout

_UNSETTLED = (
    State.SCHEDULED,
    State.APPROVED,
    State.SUBMITTING,
    State.UNKNOWN,
    State.SUBMITTED,
    State.FAILED,
)


async def measure(session: AsyncSession) -> None:
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

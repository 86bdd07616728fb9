"""Figures that are asked from the database now and then."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from operations import metrics
from operations.domain import LetterState
from operations.models import DeadLetter


async def measure(session: AsyncSession) -> None:
    query = select(DeadLetter.queue, func.count()).where(DeadLetter.state == LetterState.OPEN)
    found = (await session.execute(query.group_by(DeadLetter.queue))).all()
    metrics.open_letters.clear()
    for queue, count in found:
        metrics.open_letters.labels(queue).set(count)

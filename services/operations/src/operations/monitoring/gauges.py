"""Gauges that are measured from the database."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from operations import metrics
from operations.repository import dead_letters


async def measure(session: AsyncSession) -> None:
    found = await dead_letters.open_by_queue(session)
    metrics.open_letters.clear()
    for queue, count in found.items():
        metrics.open_letters.labels(queue).set(count)

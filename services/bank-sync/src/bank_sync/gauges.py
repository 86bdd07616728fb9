"""Gauges of items and of open syncs."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import metrics
from bank_sync.domain import Health
from bank_sync.models import Item, Sync
from bank_sync.row_security import set_tenant


async def measure(session: AsyncSession) -> None:
    await set_tenant(session, None)
    by_health = select(Item.health, func.count()).group_by(Item.health)
    found = {row[0]: row[1] for row in (await session.execute(by_health)).all()}
    for health in Health:
        metrics.items.labels(health).set(found.get(health, 0))
    age = func.extract("epoch", func.now() - func.min(Sync.created_at))
    open_ = select(Sync.status, func.count(), age).where(Sync.status.in_(["queued", "running"]))
    counted = {
        status: (count, oldest)
        for status, count, oldest in (await session.execute(open_.group_by(Sync.status))).all()
    }
    for status in ("queued", "running"):
        metrics.open_syncs.labels(status).set(counted.get(status, (0, 0))[0])
    metrics.oldest_sync.set(max((float(oldest) for _, oldest in counted.values()), default=0))

"""Gauges of items and of open syncs."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import metrics, repository
from bank_sync.domain import Health
from bank_sync.row_security import set_tenant


async def measure(session: AsyncSession) -> None:
    await set_tenant(session, None)
    found = await repository.items_by_health(session)
    for health in Health:
        metrics.items.labels(health).set(found.get(health, 0))
    counted = await repository.open_syncs(session)
    for status in ("queued", "running"):
        metrics.open_syncs.labels(status).set(counted.get(status, (0, 0))[0])
    metrics.oldest_sync.set(max((oldest for _, oldest in counted.values()), default=0))

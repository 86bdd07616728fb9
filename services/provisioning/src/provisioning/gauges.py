"""Gauges of integrations that wait for an e-mail address."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from common.runtime.gauge_collector import set_by_state
from provisioning import metrics
from provisioning.domain import Status
from provisioning.models import Integration


async def measure(session: AsyncSession) -> None:
    await set_by_state(
        session,
        state=Integration.status,
        since=Integration.updated_at,
        states=(Status.WAITING,),
        waiting=metrics.integrations_waiting,
        oldest_seconds=metrics.integrations_oldest_seconds,
    )

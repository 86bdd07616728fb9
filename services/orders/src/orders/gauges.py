"""Gauges of unfinished refunds."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from common.runtime.gauge_collector import set_by_state
from orders import metrics
from orders.domain import RefundState
from orders.models import Refund

# A `requested` refund waits for the subscription service, which makes it within minutes.
_NOT_DONE = (
    RefundState.REQUESTED,
    RefundState.MANUAL,
    RefundState.FAILED,
    RefundState.UNKNOWN,
)


async def measure(session: AsyncSession) -> None:
    await set_by_state(
        session,
        state=Refund.state,
        since=Refund.created_at,
        states=_NOT_DONE,
        waiting=metrics.refunds_waiting,
        oldest_seconds=metrics.refunds_oldest_seconds,
    )

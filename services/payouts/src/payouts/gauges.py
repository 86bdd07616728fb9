"""Gauges of open payouts and discrepancies, read from the database."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from common.runtime.gauge_collector import set_by_state
from payouts import metrics, repository
from payouts.domain import State
from payouts.ledger import repository as ledger
from payouts.models import Payout

_UNSETTLED = (
    State.SCHEDULED,
    State.APPROVED,
    State.SUBMITTING,
    State.UNKNOWN,
    State.SUBMITTED,
    State.FAILED,
)


async def measure(session: AsyncSession) -> None:
    await set_by_state(
        session,
        state=Payout.state,
        since=Payout.updated_at,
        states=_UNSETTLED,
        waiting=metrics.waiting,
        oldest_seconds=metrics.oldest_seconds,
    )
    metrics.unanswered_seconds.set(await repository.longest_unanswered(session))
    metrics.discrepancies.set(await ledger.open_discrepancies(session))

"""Gauges of open payouts and discrepancies, read from the database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from common.runtime.gauge_collector import set_by_state
from payouts import metrics
from payouts.domain import State
from payouts.models import Attempt, Discrepancy, Payout

_UNSETTLED = (
    State.SCHEDULED,
    State.APPROVED,
    State.SUBMITTING,
    State.UNKNOWN,
    State.SUBMITTED,
    State.FAILED,
)
# States in which a payout may still be sent again.
_OPEN = (State.APPROVED, State.SUBMITTING, State.UNKNOWN)


async def measure(session: AsyncSession) -> None:
    await set_by_state(
        session,
        state=Payout.state,
        since=Payout.updated_at,
        states=_UNSETTLED,
        waiting=metrics.waiting,
        oldest_seconds=metrics.oldest_seconds,
    )
    metrics.unanswered_seconds.set(float(await session.scalar(_longest_unanswered()) or 0))
    unresolved = select(func.count(Discrepancy.id)).where(Discrepancy.resolved_at.is_(None))
    metrics.discrepancies.set(await session.scalar(unresolved) or 0)


def _longest_unanswered() -> Select[Any]:
    """Select the age (seconds) of the oldest attempt with an unknown outcome, of payouts that are
    still open. The payout's own row is no measure: every status check and every new attempt updates
    it."""
    failed = aliased(Attempt)
    last_failure = select(func.max(failed.number)).where(
        failed.payout_id == Attempt.payout_id, failed.outcome == "refused"
    )
    return (
        select(func.extract("epoch", func.now() - func.min(Attempt.started_at)))
        .join(Payout, Payout.id == Attempt.payout_id)
        .where(
            Payout.state.in_([str(each) for each in _OPEN]),
            Attempt.outcome == "unknown",
            Attempt.transfer_status.is_(None),
            Attempt.number > func.coalesce(last_failure.scalar_subquery(), 0),
        )
    )

"""SQL of the provisioning service."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from common.db import tenant_rows
from common.errors import Permanent
from provisioning.domain import Status
from provisioning.models import Attempt, Integration
from provisioning.schemas import IntegrationFilter


async def lock_integration(session: AsyncSession, id_: str) -> Integration:
    """Lock an integration. Raises `Permanent` for an id that was never created."""
    row = await session.get(Integration, id_, with_for_update=True)
    if row is None:
        raise Permanent(f"there is no integration {id_}")
    return row


async def load_subscriptions(session: AsyncSession, integrations: Iterable[str]) -> None:
    """Load the `subscriptions` of these integrations, which the session holds."""
    query = select(Integration).where(Integration.id.in_(sorted(integrations)))
    (await session.scalars(query.options(selectinload(Integration.subscriptions)))).all()


async def database_now(session: AsyncSession) -> datetime:
    """Return the database's time, not the transaction's, which may have waited for a lock."""
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now


async def start_attempt(session: AsyncSession, integration: str, operation: str) -> int:
    attempt = Attempt(integration_id=integration, operation=operation)
    session.add(attempt)
    await session.flush()
    return attempt.id


async def finish_attempt(session: AsyncSession, id_: int, outcome: str, error: str | None) -> None:
    await session.execute(
        update(Attempt)
        .where(Attempt.id == id_)
        .values(finished_at=func.now(), outcome=outcome, error=error)
    )


async def forget_attempt(session: AsyncSession, id_: int) -> None:
    await session.execute(delete(Attempt).where(Attempt.id == id_))


async def attempts_of(session: AsyncSession, integration: str, limit: int) -> Sequence[Attempt]:
    query = select(Attempt).where(Attempt.integration_id == integration)
    return (await session.scalars(query.order_by(Attempt.id.desc()).limit(limit))).all()


async def attempts_finished(session: AsyncSession, window: timedelta) -> tuple[int, int]:
    """Return how many attempts finished within the window until now, and how many failed."""
    query = select(func.count(), func.count().filter(Attempt.outcome == "failed")).where(
        Attempt.finished_at > func.now() - window
    )
    finished, failed = (await session.execute(query)).one()
    return finished, failed


def to_try_again() -> Select[Integration]:
    """Select failed integrations, and pending ones whose request must have been lost long ago: the
    longest wait between two attempts is one hour."""
    orphaned = Integration.updated_at < func.now() - timedelta(hours=2)
    return select(Integration).where(
        or_(
            Integration.status == Status.FAILED,
            and_(Integration.status == Status.PENDING, orphaned),
        )
    )


def parked() -> Select[Integration]:
    return select(Integration).where(Integration.status == Status.PARKED)


async def lock_some(
    session: AsyncSession, query: Select[Integration], limit: int
) -> Sequence[Integration]:
    """Lock up to `limit` of the query's rows, those unchanged longest first; skip locked rows."""
    query = query.order_by(Integration.updated_at).limit(limit).with_for_update(skip_locked=True)
    return (await session.scalars(query)).all()


def matching(chosen: IntegrationFilter, tenant: str) -> Select[Integration]:
    query = tenant_rows.filtered(
        Integration, tenant, {"status": chosen.status, "customer_id": chosen.customer_id}
    )
    if chosen.error is not None:
        query = query.where(Integration.error.contains(chosen.error, autoescape=True))
    return query

"""The journal's index, the queues' figures, and the log of operators' actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.db.pagination import keyset_page, newest_first, number
from operations.models import JournalCursor, JournalEntry, OperatorAction, QueueStats

_MAX_TRACED = 1000


async def search_journal(
    session: AsyncSession,
    *,
    type_: str | None,
    tenants: Sequence[str | None],
    subject: str | None,
    correlation_id: str | None,
    since: datetime | None,
    until: datetime | None,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[JournalEntry], bool]:
    """Return the newest matching events, and whether there are more. `type_` may end with `*`."""
    query = select(JournalEntry)
    for column, value in (
        *((JournalEntry.tenant, each) for each in tenants),
        (JournalEntry.subject, subject),
        (JournalEntry.correlation_id, correlation_id),
    ):
        if value is not None:
            query = query.where(column == value)
    if type_ is not None:
        several = JournalEntry.type.startswith(type_.removesuffix("*"), autoescape=True)
        query = query.where(several if type_.endswith("*") else JournalEntry.type == type_)
    if since is not None:
        query = query.where(JournalEntry.recorded_at >= since)
    if until is not None:
        query = query.where(JournalEntry.recorded_at < until)
    return await keyset_page(
        session, query, JournalEntry.offset, parse=(number,), cursor=cursor, limit=limit
    )


async def of_correlation(
    session: AsyncSession, correlation_id: str, tenant: str | None
) -> Sequence[JournalEntry]:
    query = select(JournalEntry).where(JournalEntry.correlation_id == correlation_id)
    if tenant is not None:
        query = query.where(JournalEntry.tenant == tenant)
    ordered = query.order_by(JournalEntry.recorded_at, JournalEntry.offset).limit(_MAX_TRACED)
    return (await session.scalars(ordered)).all()


async def of_subject(
    session: AsyncSession, subject: str, tenant: str | None, limit: int
) -> Sequence[JournalEntry]:
    """Return the newest events of a subject."""
    query = select(JournalEntry).where(
        JournalEntry.subject == subject, JournalEntry.tenant == tenant
    )
    return (await session.scalars(query.order_by(JournalEntry.offset.desc()).limit(limit))).all()


async def journal_position(session: AsyncSession) -> tuple[datetime | None, int]:
    """Return when the newest indexed event was recorded, and how many were never indexed."""
    newest = select(JournalEntry.recorded_at).order_by(JournalEntry.offset.desc()).limit(1)
    cursor = await session.get(JournalCursor, 1)
    return await session.scalar(newest), cursor.missed if cursor is not None else 0


async def start_journal(session: AsyncSession) -> int:
    """Return the offset up to which the journal is indexed; -1 at the beginning."""
    first = insert(JournalCursor).values(id=1, offset=-1).on_conflict_do_nothing()
    await session.execute(first)
    found = await session.scalar(select(JournalCursor.offset).where(JournalCursor.id == 1))
    return -1 if found is None else found


async def lock_journal(session: AsyncSession) -> JournalCursor:
    query = select(JournalCursor).where(JournalCursor.id == 1).with_for_update()
    return (await session.scalars(query)).one()


async def add_to_journal(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    await session.execute(insert(JournalEntry).on_conflict_do_nothing(), rows)


async def delete_journal_entries(session: AsyncSession, age: timedelta) -> int:
    old = delete(JournalEntry).where(JournalEntry.recorded_at < func.now() - age)
    deleted = await session.execute(old)
    return deleted.rowcount  # type: ignore[attr-defined, no-any-return]


async def queue_stats(session: AsyncSession) -> tuple[Sequence[QueueStats], datetime]:
    """Return the figures of every queue, and the database's time."""
    found = (await session.scalars(select(QueueStats).order_by(QueueStats.name))).all()
    now: datetime = (await session.execute(select(func.now()))).scalar_one()
    return found, now


async def save_queue_stats(session: AsyncSession, found: Mapping[str, tuple[int, int]]) -> None:
    """Save messages and consumers by queue; delete the rows of queues that are not in `found`."""
    now = func.clock_timestamp()
    await session.execute(delete(QueueStats).where(QueueStats.name.not_in(found)))
    for name, (messages, consumers) in sorted(found.items()):
        row = insert(QueueStats).values(
            name=name,
            messages=messages,
            consumers=consumers,
            since=now if messages else None,
            at=now,
        )
        since = case(
            (row.excluded.messages == 0, None),
            else_=func.coalesce(QueueStats.since, row.excluded.since),
        )
        await session.execute(
            row.on_conflict_do_update(
                index_elements=[QueueStats.name],
                set_={
                    "messages": row.excluded.messages,
                    "consumers": row.excluded.consumers,
                    "since": since,
                    "at": row.excluded.at,
                },
            )
        )


async def actions(
    session: AsyncSession, tenant: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[OperatorAction], bool]:
    query = select(OperatorAction)
    if tenant is not None:
        query = query.where(OperatorAction.tenant == tenant)
    return await newest_first(session, query, OperatorAction.at, OperatorAction.id, cursor, limit)

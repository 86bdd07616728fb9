"""Dead letters, their groups and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, case, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import load_only

from common.db.bulk import equals_any
from common.db.pagination import newest_first
from operations.domain import UNSETTLED, Completed, ItemState, LetterState
from operations.models import DeadLetter, DeadLetterGroup, DeadLetterNote, ReplayItem
from operations.schemas import LetterView
from operations.selection import Filter, ReplayRequest

_MAX_GROUPS = 500
_MAX_TRACED = 200
# A list loads neither messages nor stacks, which can be many MiB in total.
_LISTED = load_only(
    *(getattr(DeadLetter, name) for name in LetterView.model_fields), raiseload=True
)


def matching(chosen: Filter, tenant: str | None) -> list[ColumnElement[bool]]:
    """Return the conditions of a filter. `tenant` limits them to one tenant; None is no limit."""
    equal = {
        DeadLetter.state: None if chosen.state == "any" else chosen.state,
        DeadLetter.queue: chosen.queue,
        DeadLetter.group_id: chosen.group,
        DeadLetter.subject: chosen.subject,
        DeadLetter.correlation_id: chosen.correlation_id,
    }
    found = [column == value for column, value in equal.items() if value is not None]
    if chosen.type is not None:
        several = DeadLetter.type.startswith(chosen.type.removesuffix("*"), autoescape=True)
        found.append(several if chosen.type.endswith("*") else DeadLetter.type == chosen.type)
    for one in (chosen.tenant, tenant):
        if one is not None:
            found.append(DeadLetter.tenant == one)
    if chosen.error_class is not None:
        groups = select(DeadLetterGroup.id).where(DeadLetterGroup.error_class == chosen.error_class)
        found.append(DeadLetter.group_id.in_(groups))
    if chosen.error is not None:
        found.append(DeadLetter.error.icontains(chosen.error, autoescape=True))
    if chosen.text is not None:
        places = (DeadLetter.text, DeadLetter.error)
        found.append(or_(*(each.icontains(chosen.text, autoescape=True) for each in places)))
    if chosen.since is not None:
        found.append(DeadLetter.dead_lettered_at >= chosen.since)
    if chosen.until is not None:
        found.append(DeadLetter.dead_lettered_at < chosen.until)
    return found


def requested(
    request: ReplayRequest, tenant: str | None, *, state: LetterState | None = None
) -> list[ColumnElement[bool]]:
    """Return the conditions of a request; `state` limits chosen ids."""
    if request.ids is None:
        return matching(request.filter, tenant)
    chosen: list[ColumnElement[bool]] = [DeadLetter.id.in_(list(request.ids))]
    if state is not None:
        chosen.append(DeadLetter.state == state)
    return chosen if tenant is None else [*chosen, DeadLetter.tenant == tenant]


async def page(
    session: AsyncSession, chosen: Filter, tenant: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[DeadLetter], bool]:
    """Return a page, the newest failures first, and whether there are more."""
    query: Select[Any] = select(DeadLetter).options(_LISTED).where(*matching(chosen, tenant))
    return await newest_first(
        session, query, DeadLetter.dead_lettered_at, DeadLetter.id, cursor, limit
    )


async def of_correlation(
    session: AsyncSession, correlation_id: str, tenant: str | None
) -> Sequence[DeadLetter]:
    query = select(DeadLetter).options(_LISTED).where(DeadLetter.correlation_id == correlation_id)
    if tenant is not None:
        query = query.where(DeadLetter.tenant == tenant)
    ordered = query.order_by(DeadLetter.dead_lettered_at).limit(_MAX_TRACED)
    return (await session.scalars(ordered)).all()


async def groups(session: AsyncSession, chosen: Filter, tenant: str | None) -> Sequence[Row[Any]]:
    """Return the largest groups of the matching dead letters, with their counts."""
    counted = (
        select(
            DeadLetter.group_id.label("id"),
            func.count().label("count"),
            func.min(DeadLetter.dead_lettered_at).label("first"),
            func.max(DeadLetter.dead_lettered_at).label("last"),
            *_lately(),
        )
        .where(*matching(chosen, tenant))
        .group_by(DeadLetter.group_id)
        .subquery()
    )
    query = (
        select(
            counted,
            DeadLetterGroup.queue,
            DeadLetterGroup.type,
            DeadLetterGroup.error_class,
            DeadLetterGroup.summary,
        )
        .join(DeadLetterGroup, counted.c.id == DeadLetterGroup.id)
        .order_by(counted.c.count.desc(), DeadLetterGroup.id)
        .limit(_MAX_GROUPS)
    )
    return (await session.execute(query)).all()


async def failures_lately(session: AsyncSession) -> dict[str, int]:
    """Count the failures of the last hour, the hour before, and the last day."""
    day = DeadLetter.dead_lettered_at >= func.now() - func.make_interval(0, 0, 0, 1)
    query = select(*_lately(), func.count().filter(day).label("last_day"))
    return dict((await session.execute(query)).mappings().one())


def _lately() -> list[ColumnElement[int]]:
    hour = func.make_interval(0, 0, 0, 0, 1)
    since = func.now() - hour
    return [
        func.count().filter(DeadLetter.dead_lettered_at >= since).label("last_hour"),
        func.count()
        .filter(DeadLetter.dead_lettered_at < since, DeadLetter.dead_lettered_at >= since - hour)
        .label("previous_hour"),
    ]


async def open_by_queue(session: AsyncSession) -> dict[str, int]:
    counting = select(DeadLetter.queue, func.count()).where(DeadLetter.state == LetterState.OPEN)
    query = counting.group_by(DeadLetter.queue).order_by(DeadLetter.queue)
    return {row[0]: row[1] for row in await session.execute(query)}


async def lock_one(session: AsyncSession, id_: str) -> DeadLetter:
    query = select(DeadLetter).where(DeadLetter.id == id_).with_for_update()
    return (await session.scalars(query.execution_options(populate_existing=True))).one()


async def lock(session: AsyncSession, ids: Sequence[str]) -> Sequence[DeadLetter]:
    """Lock dead letters in the order of their ids, as all transactions do: no deadlocks."""
    query = select(DeadLetter).where(equals_any(DeadLetter.id, sorted(ids)))
    return (await session.scalars(query.order_by(DeadLetter.id).with_for_update())).all()


async def ids_of(session: AsyncSession, conditions: Sequence[Any]) -> Sequence[str]:
    return (await session.scalars(select(DeadLetter.id).where(*conditions))).all()


async def count(session: AsyncSession, conditions: Sequence[Any], state: LetterState) -> int:
    query = select(func.count()).where(*conditions, DeadLetter.state == state)
    return await session.scalar(query) or 0


async def move(
    session: AsyncSession,
    conditions: Sequence[Any],
    states: Sequence[LetterState],
    values: Mapping[str, Any],
) -> Sequence[str]:
    """Change those in one of `states`; return their ids."""
    moving = (
        update(DeadLetter)
        .where(*conditions, DeadLetter.state.in_(states))
        .values(**values)
        .returning(DeadLetter.id)
    )
    return (await session.scalars(moving)).all()


async def old_commands(
    session: AsyncSession, conditions: Sequence[Any], pattern: str, window: timedelta
) -> dict[str, bytes]:
    """Return the encrypted bodies, by id, of commands whose type matches `pattern` and that are
    older than `window`."""
    query = select(DeadLetter.id, DeadLetter.sealed_body).where(
        *conditions,
        DeadLetter.type.like(pattern),
        DeadLetter.time < func.clock_timestamp() - window,
    )
    rows = await session.execute(query.order_by(DeadLetter.id))
    return {row[0]: row[1] for row in rows}


async def add_groups(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    await session.execute(insert(DeadLetterGroup).on_conflict_do_nothing(), rows)


async def add(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert the dead letters that are missing; return their ids."""
    adding = insert(DeadLetter).on_conflict_do_nothing().returning(DeadLetter.id)
    return {*(await session.scalars(adding, rows)).all()}


async def notes(session: AsyncSession, id_: str, limit: int) -> Sequence[DeadLetterNote]:
    query = select(DeadLetterNote).where(DeadLetterNote.dead_letter_id == id_)
    return (await session.scalars(query.order_by(DeadLetterNote.at).limit(limit))).all()


async def count_notes(session: AsyncSession, id_: str) -> int:
    query = select(func.count()).select_from(DeadLetterNote)
    return await session.scalar(query.where(DeadLetterNote.dead_letter_id == id_)) or 0


async def fail_items(session: AsyncSession, items: Sequence[str], now: datetime) -> None:
    """Mark replayed messages that came back as failed again."""
    await session.execute(
        update(ReplayItem)
        .where(equals_any(ReplayItem.id, sorted(items)), ReplayItem.state.in_(UNSETTLED))
        .values(state=ItemState.FAILED_AGAIN, completed_at=now)
    )


async def complete_items(
    session: AsyncSession, outcomes: Mapping[str, ItemState], now: datetime
) -> None:
    """Record the outcomes that consumers reported, `SUCCEEDED` or `ALREADY_DONE` by item, and
    resolve the dead letters of those items."""
    done = [id_ for id_, state in outcomes.items() if state is ItemState.SUCCEEDED]
    completing = (
        update(ReplayItem)
        .where(equals_any(ReplayItem.id, sorted(outcomes)), ReplayItem.state.in_(UNSETTLED))
        .values(
            state=case(
                (equals_any(ReplayItem.id, sorted(done)), ItemState.SUCCEEDED),
                else_=ItemState.ALREADY_DONE,
            ),
            completed_at=now,
        )
        .returning(ReplayItem.id, ReplayItem.dead_letter_id)
    )
    rows = await session.execute(completing)
    completed = {row.dead_letter_id: row.id for row in rows if row.dead_letter_id}
    if completed:
        await session.execute(
            update(DeadLetter)
            .where(
                equals_any(DeadLetter.id, sorted(completed)),
                equals_any(DeadLetter.item, sorted(completed.values())),
                DeadLetter.state == LetterState.REPLAYING,
            )
            .values(state=LetterState.SUCCEEDED, item=None, resolved_at=now)
        )


_RESOLVE_VOID = text("""
    UPDATE dead_letters d
    SET state = :succeeded, resolved_at = now(), resolved_by = 'paybus',
        resolution_reason = c.event || ' was published after this failure'
    FROM (
        SELECT commands, tenant, subject, max(at) AS at, max(event) AS event
        FROM unnest(
            cast(:commands AS text[]), cast(:tenants AS text[]), cast(:subjects AS text[]),
            cast(:times AS timestamptz[]), cast(:events AS text[])
        ) AS given (commands, tenant, subject, at, event)
        GROUP BY commands, tenant, subject
    ) c
    WHERE d.subject = c.subject AND d.tenant = c.tenant AND d.type LIKE c.commands
        AND d.state = :open AND d.dead_lettered_at < c.at
""")


async def resolve_void(session: AsyncSession, completed: Sequence[Completed]) -> None:
    """Resolve the open dead letters of commands that were completed after they had failed."""
    values = {
        "commands": [each.commands for each in completed],
        "tenants": [each.tenant for each in completed],
        "subjects": [each.subject for each in completed],
        "times": [each.at for each in completed],
        "events": [each.event for each in completed],
    }
    states = {"open": LetterState.OPEN, "succeeded": LetterState.SUCCEEDED}
    await session.execute(_RESOLVE_VOID, values | states)


async def delete_resolved(session: AsyncSession, retention: timedelta) -> int:
    """Delete dead letters that were resolved longer ago than `retention`, with their notes; return
    the number of dead letters."""
    unresolved = (LetterState.OPEN, LetterState.REPLAYING)
    deleted = await session.execute(
        delete(DeadLetter)
        .where(DeadLetter.state.not_in(unresolved), DeadLetter.resolved_at < func.now() - retention)
        .returning(DeadLetter.id)
    )
    orphaned = DeadLetterNote.dead_letter_id.not_in(select(DeadLetter.id))
    await session.execute(delete(DeadLetterNote).where(orphaned))
    return len(deleted.all())

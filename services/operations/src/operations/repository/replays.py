"""Replays and their messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from common.db.bulk import equals_any
from common.db.pagination import keyset_page, newest_first, number
from operations.domain import IN_FLIGHT, UNSETTLED, ItemState, LetterState, ReplayState
from operations.models import DeadLetter, Replay, ReplayItem


async def page(
    session: AsyncSession, tenant: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[Replay], bool]:
    query = select(Replay)
    if tenant is not None:
        query = query.where(Replay.tenant == tenant)
    return await newest_first(session, query, Replay.created_at, Replay.id, cursor, limit)


async def items(
    session: AsyncSession, replay: str, state: ItemState | None, cursor: str | None, limit: int
) -> tuple[Sequence[ReplayItem], bool]:
    """Return a page of items in the order in which they are sent, and whether there are more."""
    query = select(ReplayItem).where(ReplayItem.replay_id == replay)
    if state is not None:
        query = query.where(ReplayItem.state == state)
    return await keyset_page(
        session,
        query,
        ReplayItem.position,
        ReplayItem.id,
        parse=(number, str),
        cursor=cursor,
        limit=limit,
        ascending=True,
    )


async def failed_items(session: AsyncSession, replay: str, limit: int) -> Sequence[ReplayItem]:
    states = (ItemState.FAILED_AGAIN, ItemState.SKIPPED)
    query = select(ReplayItem).where(ReplayItem.replay_id == replay, ReplayItem.state.in_(states))
    return (await session.scalars(query.order_by(ReplayItem.position).limit(limit))).all()


async def counts(session: AsyncSession, replay: str) -> dict[str, int]:
    """Count the replay's messages by state."""
    query = select(ReplayItem.state, func.count()).where(ReplayItem.replay_id == replay)
    return {row[0]: row[1] for row in await session.execute(query.group_by(ReplayItem.state))}


async def clock(session: AsyncSession) -> datetime:
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now


async def lock(session: AsyncSession, id_: str) -> Replay | None:
    query = select(Replay).where(Replay.id == id_).with_for_update()
    return (await session.scalars(query)).one_or_none()


async def allow_minutes(session: AsyncSession) -> None:
    """Extend the statement timeout for a transaction that may change a million rows."""
    await session.execute(sql("SET LOCAL statement_timeout = '300s'"))


async def count_letters(
    session: AsyncSession, conditions: Sequence[Any], excluded: Sequence[str]
) -> dict[str, int]:
    """Count the matching dead letters by queue, without the `excluded` ids."""
    meant = [*conditions, ~equals_any(DeadLetter.id, sorted(excluded))]
    query = select(DeadLetter.queue, func.count()).where(*meant).group_by(DeadLetter.queue)
    return {row[0]: row[1] for row in await session.execute(query)}


async def claim_letters(
    session: AsyncSession,
    replay: str,
    conditions: Sequence[Any],
    *,
    queues: Sequence[str],
    excluded: Sequence[str],
    limit: int,
    expiring: str,
    window: timedelta,
) -> None:
    """Write one message for each open dead letter that matches, in the order of their failures.

    Messages whose type matches `expiring` and that are younger than `window` expire at that age.
    """
    # All transactions lock in this order. One that another replay claims meanwhile is no longer
    # open.
    chosen = (
        select(DeadLetter.id)
        .where(
            *conditions,
            DeadLetter.queue.in_(queues),
            ~equals_any(DeadLetter.id, sorted(excluded)),
        )
        .order_by(DeadLetter.id)
        .limit(limit)
        .with_for_update()
        .cte("chosen")
    )
    claiming = (
        update(DeadLetter)
        .where(DeadLetter.id.in_(select(chosen.c.id)), DeadLetter.state == LetterState.OPEN)
        .values(
            state=LetterState.REPLAYING,
            item=func.replace(func.gen_random_uuid().cast(DeadLetter.item.type), "-", ""),
        )
        .returning(
            DeadLetter.id,
            DeadLetter.item,
            DeadLetter.queue,
            DeadLetter.dead_lettered_at,
            DeadLetter.type,
            DeadLetter.time,
        )
        .cte("claimed")
    )
    position = func.row_number().over(order_by=(claiming.c.dead_lettered_at, claiming.c.id))
    expires = claiming.c.type.like(expiring) & (claiming.c.time > func.now() - window)
    writing = insert(ReplayItem).from_select(
        ["id", "replay_id", "position", "queue", "state", "dead_letter_id", "expires_at"],
        select(
            claiming.c.item,
            literal(replay),
            position,
            claiming.c.queue,
            literal(ItemState.WAITING.value),
            claiming.c.id,
            case((expires, claiming.c.time + window)),
        ),
    )
    await allow_minutes(session)
    await session.execute(writing)


async def queues_of_letters(session: AsyncSession, ids: Sequence[str]) -> dict[str, str]:
    """Return the queue of each dead letter, by its id."""
    query = select(DeadLetter.id, DeadLetter.queue).where(equals_any(DeadLetter.id, sorted(ids)))
    return {row[0]: row[1] for row in await session.execute(query)}


async def skip_waiting(
    session: AsyncSession, replay: str, *, detail: str, expired_only: bool = False
) -> None:
    """Skip messages that were not sent yet; their dead letters are open again."""
    which: list[ColumnElement[bool]] = [
        ReplayItem.replay_id == replay,
        ReplayItem.state == ItemState.WAITING,
    ]
    if expired_only:
        which.append(ReplayItem.expires_at < func.now())
    skipping = (
        update(ReplayItem)
        .where(*which)
        .values(state=ItemState.SKIPPED, detail=detail, completed_at=func.now())
        .returning(ReplayItem.id)
        .cte("skipped")
    )
    await session.execute(
        update(DeadLetter)
        .where(DeadLetter.item.in_(select(skipping.c.id)))
        .values(state=LetterState.OPEN, item=None)
    )


async def abandon_items(session: AsyncSession, letters: Sequence[str], *, detail: str) -> None:
    """Skip messages of cancelled replays that were sent and have no outcome; their dead letters are
    open again."""
    cancelled = select(Replay.id).where(Replay.state == ReplayState.CANCELLED)
    items = select(ReplayItem.id).where(
        equals_any(ReplayItem.dead_letter_id, letters),
        ReplayItem.replay_id.in_(cancelled),
        ReplayItem.state.in_(IN_FLIGHT),
    )
    skipping = (
        update(ReplayItem)
        .where(ReplayItem.id.in_(items))
        .values(state=ItemState.SKIPPED, detail=detail, completed_at=func.now())
        .returning(ReplayItem.id)
        .cte("skipped")
    )
    await session.execute(
        update(DeadLetter)
        .where(
            DeadLetter.item.in_(select(skipping.c.id)), DeadLetter.state == LetterState.REPLAYING
        )
        .values(state=LetterState.OPEN, item=None)
    )


async def claim(session: AsyncSession, lease: str, seconds: timedelta) -> str | None:
    """Lease the oldest replay that no worker runs, and return its id. Paused and cancelled ones
    count while a worker that died has left messages that may or may not have been sent."""
    runs = Replay.state.in_((ReplayState.PREPARING, ReplayState.RUNNING))
    unknown = Replay.state.in_((ReplayState.PAUSED, ReplayState.CANCELLED)) & (
        select(ReplayItem.id)
        .where(ReplayItem.replay_id == Replay.id, ReplayItem.state == ItemState.SENDING)
        .exists()
    )
    free = (
        select(Replay.id)
        .where(
            runs | unknown,
            Replay.lease_until.is_(None) | (Replay.lease_until < func.clock_timestamp()),
        )
        .order_by(Replay.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    claiming = (
        update(Replay)
        .where(Replay.id.in_(free.scalar_subquery()))
        .values(
            lease=lease,
            lease_until=func.clock_timestamp() + seconds,
            started_at=func.coalesce(Replay.started_at, func.clock_timestamp()),
        )
        .returning(Replay.id)
    )
    id_: str | None = await session.scalar(claiming)
    return id_


async def lock_leased(
    session: AsyncSession, id_: str, lease: str, seconds: timedelta
) -> Replay | None:
    """Return the replay, locked and with a renewed lease; None if another worker has it."""
    query = select(Replay).where(Replay.id == id_, Replay.lease == lease).with_for_update()
    replay = (await session.scalars(query)).one_or_none()
    if replay is not None:
        replay.lease_until = func.clock_timestamp() + seconds
    return replay


async def release(
    session: AsyncSession, id_: str, lease: str, error: str | None, after: timedelta
) -> None:
    """End the lease; any worker may take the replay after the interval `after`."""
    await session.execute(
        update(Replay)
        .where(Replay.id == id_, Replay.lease == lease)
        .values(lease=None, lease_until=func.clock_timestamp() + after, error=error)
    )


async def remaining(session: AsyncSession, replay: str) -> tuple[bool, int]:
    """Return whether messages wait to be sent, and how many are with their consumers."""
    of = ReplayItem.replay_id == replay
    query = select(
        select(ReplayItem.id).where(of, ReplayItem.state == ItemState.WAITING).exists(),
        select(func.count()).where(of, ReplayItem.state.in_(IN_FLIGHT)).scalar_subquery(),
    )
    waiting, in_flight = (await session.execute(query)).one()
    return waiting, in_flight


async def claim_items(
    session: AsyncSession, replay: str, limit: int
) -> Sequence[tuple[str, int, str, bytes, dict[str, Any] | None]]:
    """Mark the next messages as `sending`; return id, position, queue, sealed body, headers."""
    chosen = (
        select(ReplayItem.id)
        .where(ReplayItem.replay_id == replay, ReplayItem.state == ItemState.WAITING)
        .order_by(ReplayItem.position)
        .limit(limit)
    )
    claiming = (
        update(ReplayItem)
        .where(ReplayItem.id.in_(chosen.scalar_subquery()))
        .values(state=ItemState.SENDING, sending_at=func.clock_timestamp())
        .returning(
            ReplayItem.id,
            ReplayItem.queue,
            ReplayItem.position,
            ReplayItem.sealed_body,
            ReplayItem.dead_letter_id,
        )
        .cte("claimed")
    )
    query = (
        select(
            claiming.c.id,
            claiming.c.position,
            claiming.c.queue,
            func.coalesce(claiming.c.sealed_body, DeadLetter.sealed_body),
            DeadLetter.headers,
        )
        .join_from(claiming, DeadLetter, DeadLetter.id == claiming.c.dead_letter_id, isouter=True)
        .order_by(claiming.c.position)
    )
    return [tuple(row) for row in await session.execute(query)]


async def unresolved_letters(session: AsyncSession, ids: Sequence[str]) -> set[str]:
    """Return the ids of those that have not succeeded in a replay."""
    query = select(DeadLetter.id).where(
        equals_any(DeadLetter.id, ids), DeadLetter.state != LetterState.SUCCEEDED
    )
    return {*(await session.scalars(query)).all()}


async def add_items(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    await session.execute(postgresql.insert(ReplayItem).on_conflict_do_nothing(), rows)


def _unknown(replay: str, after: int) -> ColumnElement[bool]:
    return (
        (ReplayItem.replay_id == replay)
        & (ReplayItem.state == ItemState.SENDING)
        & (ReplayItem.position > after)
    )


async def unknown_since(session: AsyncSession, replay: Replay) -> datetime | None:
    """Return when the first message was marked as `sending` that the broker may not have confirmed;
    if there is none, mark all such messages as sent."""
    open_ = _unknown(replay.id, replay.confirmed_position)
    since: datetime | None = await session.scalar(
        select(func.min(ReplayItem.sending_at)).where(open_)
    )
    if since is None:
        await session.execute(
            update(ReplayItem)
            .where(ReplayItem.replay_id == replay.id, ReplayItem.state == ItemState.SENDING)
            .values(state=ItemState.SENT)
        )
    return since


async def resolve_unknown(
    session: AsyncSession, replay: str, after: int, sent: Sequence[str]
) -> None:
    """Resolve messages that may have been sent: those in `sent` were, the others wait again."""
    open_ = _unknown(replay, after)
    await session.execute(
        update(ReplayItem)
        .where(open_, equals_any(ReplayItem.id, sorted(sent)))
        .values(state=ItemState.SENT)
    )
    await session.execute(
        update(ReplayItem).where(open_).values(state=ItemState.WAITING, sending_at=None)
    )


async def delete_finished(session: AsyncSession, retention: timedelta) -> int:
    """Delete finished replays that were created longer ago than `retention`, with their messages;
    return the number of replays."""
    finished = (ReplayState.DONE, ReplayState.CANCELLED)
    deleted = await session.execute(
        delete(Replay)
        .where(
            Replay.state.in_(finished),
            Replay.created_at < func.now() - retention,
            ~select(ReplayItem.id)
            .where(ReplayItem.replay_id == Replay.id, ReplayItem.state.in_(UNSETTLED))
            .exists(),
        )
        .returning(Replay.id)
    )
    orphaned = ReplayItem.replay_id.not_in(select(Replay.id))
    await session.execute(delete(ReplayItem).where(orphaned))
    return len(deleted.all())

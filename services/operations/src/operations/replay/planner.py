"""Orders replays: the set of messages is written down when it is asked for, and does not change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import case, func, insert, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts import topology
from common.contracts.event import DecodeError
from common.contracts.registry import decode
from common.db import tenant_rows
from common.db.bulk import equals_any
from common.errors import Conflict, Invalid, NotFound
from common.http.auth import Caller
from common.security.encryption import SecretBox
from operations import action_log
from operations.dead_letters.filters import Filter
from operations.domain import IN_FLIGHT, ItemState, LetterState, ReplayState
from operations.models import DeadLetter, Replay, ReplayItem

MOST = 1_000_000
PAYOUT_COMMANDS = "payout.process.%"
_QUEUES = frozenset(each.name for each in topology.QUEUES)
_NO_QUEUE = "of no queue: nothing would take it"


@dataclass(frozen=True)
class ReplayRequest:
    """Which dead letters, why, and how fast: `rate` messages a second, `concurrency` of them with
    their consumers at once. Either `ids`, or all that fit `filter`."""

    filter: Filter
    ids: Sequence[str] | None
    reason: str
    rate: int | None
    concurrency: int


@dataclass(frozen=True)
class DryRunResult:
    """What a replay would do: how many it would send to which queue, and how many not, and why."""

    send: dict[str, int] = field(default_factory=dict)
    skip: dict[str, int] = field(default_factory=dict)


def conditions(wish: ReplayRequest, tenant: str | None) -> list[Any]:
    if wish.ids is None:
        return wish.filter.conditions(tenant)
    chosen = [DeadLetter.id.in_(list(wish.ids)), DeadLetter.state == LetterState.OPEN]
    return chosen if tenant is None else [*chosen, DeadLetter.tenant == tenant]


async def dry_run(
    session: AsyncSession, wish: ReplayRequest, tenant: str | None, refused: Mapping[str, str]
) -> DryRunResult:
    """Changes nothing. `refused` says of letters why they must not be sent. Raises what
    `create_replay` raises of other letters than open ones."""
    _only_open(wish)
    meant = [*conditions(wish, tenant), ~equals_any(DeadLetter.id, sorted(refused))]
    counting = select(DeadLetter.queue, func.count()).where(*meant).group_by(DeadLetter.queue)
    found = DryRunResult()
    for queue, count in await session.execute(counting):
        if queue in _QUEUES:
            found.send[queue] = count
        else:
            found.skip[_NO_QUEUE] = found.skip.get(_NO_QUEUE, 0) + count
    for why in refused.values():
        found.skip[why] = found.skip.get(why, 0) + 1
    if wish.ids is not None and (missing := len({*wish.ids}) - _sum(found)):
        found.skip["not open, or not there"] = missing
    return found


async def create_replay(
    session: AsyncSession,
    wish: ReplayRequest,
    caller: Caller,
    tenant: str | None,
    refused: Mapping[str, str],
    *,
    window: timedelta,
) -> Replay:
    """A payout command that is younger than `window` is sent before it is as old, or not at all.
    Raises `Invalid` for other letters than open ones, `Conflict` when there are none."""
    _only_open(wish)
    replay = Replay(
        id=uuid4().hex,
        state=ReplayState.RUNNING,
        description=_description(wish, tenant),
        reason=wish.reason,
        tenant=caller.tenant,
        created_by=caller.subject,
        rate=wish.rate,
        concurrency=wish.concurrency,
    )
    session.add(replay)
    await session.flush()
    # Locked in one order everywhere; what another replay takes meanwhile is not open any more.
    chosen = (
        select(DeadLetter.id)
        .where(
            *conditions(wish, tenant),
            DeadLetter.queue.in_(_QUEUES),
            ~equals_any(DeadLetter.id, sorted(refused)),
        )
        .order_by(DeadLetter.id)
        .limit(MOST)
        .with_for_update()
        .cte("chosen")
    )
    taking = (
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
        .cte("taken")
    )
    order_of = func.row_number().over(order_by=(taking.c.dead_lettered_at, taking.c.id))
    writing = insert(ReplayItem).from_select(
        ["id", "replay_id", "position", "queue", "state", "dead_letter_id", "expires_at"],
        select(
            taking.c.item,
            literal(replay.id),
            order_of,
            taking.c.queue,
            literal(ItemState.WAITING.value),
            taking.c.id,
            case(
                (
                    taking.c.type.like(PAYOUT_COMMANDS) & (taking.c.time > func.now() - window),
                    taking.c.time + window,
                )
            ),
        ),
    )
    await _take_time(session)
    await session.execute(writing)
    if not await counts(session, replay.id):
        why = "; ".join(sorted({*refused.values()})) or "no open dead letter of a queue fits"
        raise Conflict(f"there is nothing to replay: {why}")
    await _skip(session, replay.id, refused)
    action_log.note(session, caller, "replay", f"replay/{replay.id}", wish.reason)
    return replay


async def expire_items(session: AsyncSession, replay: str) -> None:
    """Of a replay's messages, those that have become too old to be sent are open again."""
    why = "it has become too old while it waited: its provider may not know its key any more"
    late = ReplayItem.expires_at < func.now()
    await _skip_waiting(session, ReplayItem.replay_id == replay, late, why=why)


async def order_edited(
    session: AsyncSession,
    caller: Caller,
    id_: str,
    changes: Mapping[str, Any],
    reason: str,
    vault: SecretBox,
) -> Replay:
    """Send a letter's event with other data and an id of its own; the letter is replaced by it."""
    query = select(DeadLetter).where(DeadLetter.id == id_).with_for_update()
    letter = (await session.scalars(query.execution_options(populate_existing=True))).one()
    if letter.state != LetterState.OPEN or letter.event_id is None or letter.queue not in _QUEUES:
        raise Conflict("only an open dead letter that is an event of a queue can be edited")
    event = json.loads(vault.open_bytes(letter.sealed_body))
    event |= {"data": _patched(event.get("data"), changes), "id": str(uuid4())}
    event["causationid"] = letter.event_id
    body = json.dumps(event).encode()
    try:
        decode(body)
    except DecodeError as error:
        raise Invalid(f"these are no data of {letter.type}: {error}") from error
    replay = Replay(
        id=uuid4().hex,
        state=ReplayState.RUNNING,
        description=f"dead letter {id_}, edited: now event {event['id']}",
        reason=reason,
        tenant=caller.tenant,
        created_by=caller.subject,
        concurrency=1,
    )
    item = ReplayItem(
        id=uuid4().hex,
        replay_id=replay.id,
        position=1,
        queue=letter.queue,
        state=ItemState.WAITING,
        sealed_body=vault.seal_bytes(body),
        dead_letter_id=id_,
    )
    session.add_all([replay, item])
    letter.state, letter.resolved_by = LetterState.REPLACED, caller.subject
    letter.resolved_at, letter.resolution_reason = func.now(), reason
    action_log.note(session, caller, "edit and replay", f"letter/{id_}", reason)
    await session.flush()
    await session.refresh(replay)
    return replay


async def _skip(session: AsyncSession, replay: str, refused: Mapping[str, str]) -> None:
    """They stay open, and the replay says why they are not in it."""
    query = select(DeadLetter.id, DeadLetter.queue).where(
        equals_any(DeadLetter.id, sorted(refused))
    )
    for id_, queue in (await session.execute(query)).all():
        item = ReplayItem(
            id=uuid4().hex,
            replay_id=replay,
            position=0,
            queue=queue,
            state=ItemState.SKIPPED,
            dead_letter_id=id_,
            detail=refused[id_],
        )
        session.add(item)


async def set_state(
    session: AsyncSession, id_: str, caller: Caller, to: ReplayState, reason: str | None
) -> Replay:
    """Pause, resume or cancel. What is with its consumers already runs on; the rest of a cancelled
    one is open again. Raises `NotFound`, and `Conflict` when it is over."""
    query = select(Replay).where(Replay.id == id_).with_for_update()
    replay = (await session.scalars(query)).one_or_none()
    if replay is None:
        raise NotFound(f"no replay has the id {id_!r}")
    if replay.state not in {ReplayState.PREPARING, ReplayState.RUNNING, ReplayState.PAUSED}:
        raise Conflict(f"the replay is {replay.state} already")
    if replay.state == ReplayState.PREPARING and to is not ReplayState.CANCELLED:
        raise Conflict("the replay is still being prepared: it can only be cancelled")
    replay.state = to
    if to is ReplayState.CANCELLED:
        await release_items(session, id_)
        replay.finished_at = await tenant_rows.database_now(session)
    action_log.note(session, caller, f"replay {to}", f"replay/{id_}", reason)
    return replay


async def release_items(session: AsyncSession, replay: str) -> None:
    """What was not sent is open again."""
    await _take_time(session)
    await _skip_waiting(session, ReplayItem.replay_id == replay, why="the replay was cancelled")


async def abandon_items(session: AsyncSession, letters: Sequence[str]) -> None:
    """Of cancelled replays, whose outcome nobody will tell any more; the letters are open again."""
    cancelled = select(Replay.id).where(Replay.state == ReplayState.CANCELLED)
    items = select(ReplayItem.id).where(
        equals_any(ReplayItem.dead_letter_id, letters),
        ReplayItem.replay_id.in_(cancelled),
        ReplayItem.state.in_(IN_FLIGHT),
    )
    skipping = (
        update(ReplayItem)
        .where(ReplayItem.id.in_(items))
        .values(
            state=ItemState.SKIPPED, detail="given up: no outcome was told", completed_at=func.now()
        )
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


async def _take_time(session: AsyncSession) -> None:
    """For this transaction, which may be about a million rows."""
    await session.execute(text("SET LOCAL statement_timeout = '300s'"))


async def _skip_waiting(session: AsyncSession, *which: Any, why: str) -> None:
    """Their letters are open again."""
    skipping = (
        update(ReplayItem)
        .where(*which, ReplayItem.state == ItemState.WAITING)
        .values(state=ItemState.SKIPPED, detail=why, completed_at=func.now())
        .returning(ReplayItem.id)
        .cte("skipped")
    )
    await session.execute(
        update(DeadLetter)
        .where(DeadLetter.item.in_(select(skipping.c.id)))
        .values(state=LetterState.OPEN, item=None)
    )


def _only_open(wish: ReplayRequest) -> None:
    if wish.ids is None and wish.filter.state is not LetterState.OPEN:
        raise Invalid("only open dead letters can be replayed: restore archived ones first")


def _description(wish: ReplayRequest, tenant: str | None) -> str:
    if wish.ids is not None:
        return f"{len(wish.ids)} chosen dead letters"
    given = wish.filter.model_dump(exclude_none=True, exclude={"state"}, mode="json")
    if tenant is not None:
        given["tenant"] = tenant
    return ", ".join(f"{name} {value}" for name, value in given.items()) or "all dead letters"


def _patched(before: Any, changes: Any) -> Any:
    """A JSON merge patch, RFC 7396."""
    if not isinstance(changes, Mapping):
        return changes
    after = dict(before) if isinstance(before, Mapping) else {}
    for name, value in changes.items():
        if value is None:
            after.pop(name, None)
        else:
            after[name] = _patched(after.get(name), value)
    return after


def _sum(found: DryRunResult) -> int:
    return sum(found.send.values()) + sum(found.skip.values())


async def counts(session: AsyncSession, replay: str) -> dict[str, int]:
    query = (
        select(ReplayItem.state, func.count())
        .where(ReplayItem.replay_id == replay)
        .group_by(ReplayItem.state)
    )
    return {row[0]: row[1] for row in await session.execute(query)}

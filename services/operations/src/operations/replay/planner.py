"""Creates replays: their messages are chosen when they are requested and do not change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts import topology
from common.contracts.event import DecodeError
from common.contracts.registry import decode
from common.db import tenant_rows
from common.errors import Conflict, Invalid, NotFound
from common.http.auth import Caller
from common.security.encryption import SecretBox
from operations import action_log
from operations.domain import ItemState, LetterState, ReplayState
from operations.models import Replay, ReplayItem
from operations.repository import dead_letters, replays
from operations.selection import ReplayRequest

MAX_LETTERS = 1_000_000
PAYOUT_COMMANDS = "payout.process.%"
_QUEUES = frozenset(each.name for each in topology.QUEUES)
_NO_QUEUE = "it names no queue: nothing would consume it"
_TOO_OLD = "it has become too old while it waited: its provider may not know its key any more"


@dataclass(frozen=True)
class DryRunResult:
    """The forecast of a replay: how many messages it would send by queue, and how many it would
    skip by reason."""

    send: dict[str, int] = field(default_factory=dict)
    skip: dict[str, int] = field(default_factory=dict)


async def dry_run(
    session: AsyncSession, wish: ReplayRequest, tenant: str | None, refused: Mapping[str, str]
) -> DryRunResult:
    """Return what a replay would do, without changing anything. `refused` maps dead letters that
    must not be sent to the reasons. Raises `Invalid` unless only open dead letters are selected."""
    _only_open(wish)
    counted = await replays.count_letters(session, conditions(wish, tenant), [*refused])
    found = DryRunResult()
    for queue, count in counted.items():
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
    """Create a replay. A payout command that is younger than `window` is sent before it reaches
    that age, or not at all. Raises `Invalid` unless only open dead letters are selected, `Conflict`
    if none match."""
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
    await replays.claim_letters(
        session,
        replay.id,
        conditions(wish, tenant),
        queues=sorted(_QUEUES),
        excluded=[*refused],
        limit=MAX_LETTERS,
        expiring=PAYOUT_COMMANDS,
        window=window,
    )
    if not await replays.counts(session, replay.id):
        why = "; ".join(sorted({*refused.values()})) or "no open dead letter of a queue matches"
        raise Conflict(f"nothing to replay: {why}")
    await _skip(session, replay.id, refused)
    action_log.note(session, caller, "replay", f"replay/{replay.id}", wish.reason)
    return replay


async def expire_items(session: AsyncSession, replay: str) -> None:
    """Skip messages that have become too old to send; their dead letters are open again."""
    await replays.skip_waiting(session, replay, detail=_TOO_OLD, expired_only=True)


async def replay_edited(
    session: AsyncSession,
    caller: Caller,
    id_: str,
    changes: Mapping[str, Any],
    reason: str,
    vault: SecretBox,
) -> Replay:
    """Send a dead letter's event with changed data and a new id; it replaces the dead letter.
    Raises `Conflict` unless it is an open event of a queue, `Invalid` if the data do not fit its
    type."""
    letter = await dead_letters.lock_one(session, id_)
    if letter.state != LetterState.OPEN or letter.event_id is None or letter.queue not in _QUEUES:
        raise Conflict("only an open dead letter that is an event of a queue can be edited")
    event = json.loads(vault.open_bytes(letter.sealed_body))
    event |= {"data": _patched(event.get("data"), changes), "id": str(uuid4())}
    event["causationid"] = letter.event_id
    body = json.dumps(event).encode()
    try:
        decode(body)
    except DecodeError as error:
        raise Invalid(f"the data do not fit {letter.type}: {error}") from error
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
    """Record refused dead letters as skipped, with the reason; they stay open."""
    for id_, queue in (await replays.queues_of_letters(session, [*refused])).items():
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
    """Pause, resume or cancel a replay. Messages that their consumers already have are still
    processed; the rest of a cancelled replay is open again. Raises `NotFound`, and `Conflict` if
    the replay is over."""
    replay = await replays.lock(session, id_)
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
    """Skip the messages that were not sent; their dead letters are open again."""
    await replays.allow_minutes(session)
    await replays.skip_waiting(session, replay, detail="the replay was cancelled")


async def abandon_items(session: AsyncSession, letters: Sequence[str]) -> None:
    """Abandon unreported outcomes of cancelled replays; their dead letters are open again."""
    await replays.abandon_items(session, letters, detail="abandoned: no outcome was reported")


def conditions(wish: ReplayRequest, tenant: str | None) -> list[Any]:
    """Return the conditions of a request, limited to open dead letters also for chosen ids."""
    return dead_letters.requested(wish, tenant, state=LetterState.OPEN)


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
    """Apply a JSON merge patch, RFC 7396."""
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

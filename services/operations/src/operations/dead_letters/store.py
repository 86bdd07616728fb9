"""Writes dead letters down: new ones, and those that died again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import case, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.db import tenant_rows
from common.db.bulk import equals_any
from common.security.encryption import SecretBox
from operations.dead_letters.parser import ParsedDeadLetter
from operations.domain import UNSETTLED, ItemState, LetterState
from operations.models import DeadLetter, DeadLetterGroup, ReplayItem

_LONGEST_HISTORY = 100


async def save(
    session: AsyncSession, arrived: Sequence[ParsedDeadLetter], vault: SecretBox
) -> None:
    """In one transaction. The same message of the broker's, filed twice, changes nothing."""
    newest: dict[str, ParsedDeadLetter] = {}
    for each in sorted(arrived, key=lambda each: each.dead_lettered_at):
        newest[each.id] = each
    now = await tenant_rows.database_now(session)
    await _write_groups(session, arrived)
    new = await _insert(session, [newest[id_] for id_ in sorted(newest)], vault)
    query = select(DeadLetter).where(equals_any(DeadLetter.id, sorted({*newest} - new)))
    locking = query.order_by(DeadLetter.id).with_for_update()
    for letter in (await session.scalars(locking)).all():
        _record_repeat_failure(letter, newest[letter.id], now, vault)
    await session.flush()
    await _settle_items(session, [each.item for each in arrived if each.item], now)


async def _write_groups(session: AsyncSession, arrived: Iterable[ParsedDeadLetter]) -> None:
    groups = {
        each.group_id: {
            "id": each.group_id,
            "queue": each.queue,
            "type": each.type,
            "error_class": each.fault.error_class,
            "summary": each.fault.summary,
        }
        for each in arrived
    }
    ordered = [groups[id_] for id_ in sorted(groups)]
    await session.execute(insert(DeadLetterGroup).on_conflict_do_nothing(), ordered)


async def _insert(
    session: AsyncSession, fresh: Sequence[ParsedDeadLetter], vault: SecretBox
) -> set[str]:
    """Returns the ids of those that were not there."""
    values = [_values(each, vault) | {"id": each.id, "state": LetterState.OPEN} for each in fresh]
    adding = insert(DeadLetter).on_conflict_do_nothing().returning(DeadLetter.id)
    return {*(await session.scalars(adding, values)).all()}


def _values(each: ParsedDeadLetter, vault: SecretBox) -> dict[str, Any]:
    return {
        "queue": each.queue,
        "group_id": each.group_id,
        "source": each.source,
        "event_id": each.event_id,
        "type": each.type,
        "tenant": each.tenant,
        "subject": each.subject,
        "correlation_id": each.correlation_id,
        "time": each.time,
        "recorded_at": each.recorded_at,
        "sealed_body": vault.seal_bytes(each.body),
        "headers": each.headers,
        "text": each.text,
        "reason": each.reason,
        "error": each.error,
        "stack": each.stack,
        "attempts": each.attempts,
        "history": each.history,
        "dead_lettered_at": each.dead_lettered_at,
    }


def _record_repeat_failure(
    letter: DeadLetter, each: ParsedDeadLetter, now: datetime, vault: SecretBox
) -> None:
    """Of the same event, in the same queue, some other time."""
    if each.dead_lettered_at == letter.dead_lettered_at:
        return  # the same death, which was filed before its message was acknowledged
    letter.failure_count += 1
    if letter.state == LetterState.REPLAYING and each.item != letter.item:
        return  # an older failure that comes late: the replay is not over
    for name, value in _values(each, vault).items():
        if name != "history":
            setattr(letter, name, value)
    letter.history = [*letter.history, *each.history][-_LONGEST_HISTORY:]
    letter.state, letter.item = LetterState.OPEN, None
    letter.resolved_at = letter.resolved_by = letter.resolution_reason = None


async def _settle_items(session: AsyncSession, items: Sequence[str], now: datetime) -> None:
    """What was sent again came back."""
    if not items:
        return
    await session.execute(
        update(ReplayItem)
        .where(equals_any(ReplayItem.id, sorted(items)), ReplayItem.state.in_(UNSETTLED))
        .values(state=ItemState.FAILED_AGAIN, completed_at=now)
    )


async def complete_items(
    session: AsyncSession, outcomes: dict[str, ItemState], now: datetime
) -> None:
    """What consumers told: `outcomes` is `SUCCEEDED` or `ALREADY_DONE` by item."""
    done = [id_ for id_, state in outcomes.items() if state is ItemState.SUCCEEDED]
    settling = (
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
    completed = {
        row.dead_letter_id: row.id for row in await session.execute(settling) if row.dead_letter_id
    }
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

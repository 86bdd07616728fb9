"""Stores dead letters: new ones, and those that failed again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.db import tenant_rows
from common.security.encryption import SecretBox
from operations.dead_letters.parser import ParsedDeadLetter
from operations.domain import LetterState
from operations.models import DeadLetter
from operations.repository import dead_letters as repository

_LONGEST_HISTORY = 100


async def save(
    session: AsyncSession, arrived: Sequence[ParsedDeadLetter], vault: SecretBox
) -> None:
    """Store a batch in one transaction. Storing the same failure twice has no effect."""
    newest: dict[str, ParsedDeadLetter] = {}
    for each in sorted(arrived, key=lambda each: each.dead_lettered_at):
        newest[each.id] = each
    now = await tenant_rows.database_now(session)
    await _write_groups(session, arrived)
    new = await _insert(session, [newest[id_] for id_ in sorted(newest)], vault)
    for letter in await repository.lock(session, [*({*newest} - new)]):
        _record_repeat_failure(letter, newest[letter.id], now, vault)
    await session.flush()
    if came_back := [each.item for each in arrived if each.item]:
        await repository.fail_items(session, came_back, now)


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
    await repository.add_groups(session, ordered)


async def _insert(
    session: AsyncSession, fresh: Sequence[ParsedDeadLetter], vault: SecretBox
) -> set[str]:
    """Insert the dead letters that are missing; return their ids."""
    values = [_values(each, vault) | {"id": each.id, "state": LetterState.OPEN} for each in fresh]
    return await repository.add(session, values)


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
    """Record another failure of the same event in the same queue."""
    if each.dead_lettered_at == letter.dead_lettered_at:
        return  # the same failure: saved, but its message was not acknowledged
    letter.failure_count += 1
    if letter.state == LetterState.REPLAYING and each.item != letter.item:
        return  # an older failure that arrives late: the replay is still running
    for name, value in _values(each, vault).items():
        if name != "history":
            setattr(letter, name, value)
    letter.history = [*letter.history, *each.history][-_LONGEST_HISTORY:]
    letter.state, letter.item = LetterState.OPEN, None
    letter.resolved_at = letter.resolved_by = letter.resolution_reason = None

"""Record of the events that this database has already processed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event
from common.db.bulk import columns_of, insert_rows
from common.messaging.tables import inbox

_COLUMNS = ("queue", "source", "id")
_CLAIM = insert_rows(inbox, _COLUMNS).on_conflict_do_nothing().returning(inbox.c.source, inbox.c.id)


async def claim(
    session: AsyncSession, queue: str, events: Sequence[Event[Any]]
) -> list[Event[Any]]:
    """Insert the events' ids into the inbox; return the events that were new, in order.

    The rows become final with the caller's transaction. If another transaction holds the same id
    this one waits for it: after its commit the event is a duplicate, after its rollback it is new.
    """
    if not events:
        return []
    by_key = {(event.source, event.id): event for event in reversed(events)}
    # Sorted, so that two workers with the same duplicates never deadlock.
    rows = [{"queue": queue, "source": source, "id": id_} for source, id_ in sorted(by_key)]
    found = await session.execute(_CLAIM, columns_of(rows, _COLUMNS))
    claimed = {(row.source, row.id) for row in found}
    return [
        event
        for event in events
        if (event.source, event.id) in claimed and by_key[event.source, event.id] is event
    ]


async def already_processed(
    session: AsyncSession, queue: str, keys: Sequence[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Return those (source, id) keys that are in the inbox already."""
    if not keys:
        return set()
    found = await session.execute(
        select(inbox.c.source, inbox.c.id).where(
            inbox.c.queue == queue, tuple_(inbox.c.source, inbox.c.id).in_(keys)
        )
    )
    return {(row.source, row.id) for row in found}

"""The event handlers of the operations service."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from common.contracts.event import Event
from common.contracts.operations import ReplayItemsCompleted
from common.db import tenant_rows
from common.messaging.outbox import UnitOfWork
from common.messaging.transactional_consumer import Handler
from operations import metrics
from operations.domain import COMPLETES, Completed, ItemState
from operations.repository import dead_letters

_REPORTED = "outcomes"
_COMPLETED = "completed"


async def on_items_completed(work: UnitOfWork, event: Event[ReplayItemsCompleted]) -> None:
    """Record the outcomes that consumers report for replayed messages. A batch of such events is
    written in one statement."""
    outcomes: dict[str, ItemState] | None = work.session.info.get(_REPORTED)
    if outcomes is None:
        outcomes = work.session.info[_REPORTED] = {}

        async def write() -> None:
            await dead_letters.complete_items(
                work.session, outcomes, await tenant_rows.database_now(work.session)
            )

        work.before_commit(write)
    for item in event.data.done:
        outcomes[item] = ItemState.SUCCEEDED
    for item in event.data.duplicates:
        outcomes.setdefault(item, ItemState.ALREADY_DONE)
    metrics.outcomes.labels("done").inc(len(event.data.done))
    metrics.outcomes.labels("duplicate").inc(len(event.data.duplicates))


async def on_completed(work: UnitOfWork, event: Event[Any]) -> None:
    """Resolve the dead letters that the event's success makes void: a command failed for the last
    time, then an operator's or a job's retry succeeded."""
    completed: list[Completed] | None = work.session.info.get(_COMPLETED)
    if completed is None:
        completed = work.session.info[_COMPLETED] = []
        work.before_commit(partial(dead_letters.resolve_void, work.session, completed))
    completed.append(
        Completed(
            COMPLETES[event.type], event.tenant, event.subject, event.recordedtime, event.type
        )
    )


OUTCOMES: Mapping[str, Handler] = {"replay.items_completed": on_items_completed}
COMPLETIONS: Mapping[str, Handler] = dict.fromkeys(COMPLETES, on_completed)

"""The API of the journal: published events, traces, and replays of a window."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from common.db.pagination import encode_cursor
from common.errors import Invalid
from common.http.auth import Operator, Viewer
from common.http.resources import Cursor, Limit, Session
from operations.api.dependencies import Operators
from operations.api.requests import JournalReplayBody
from operations.repository import monitoring
from operations.schemas import EntryPage, EntryView, ReplayView, Trace, shown
from operations.selection import is_masked

journal = APIRouter(prefix="/v1/journal", tags=["journal"])


@journal.get("")
async def search_journal(
    caller: Viewer,
    session: Session,
    operators: Operators,
    type_: Annotated[
        str | None, Query(alias="type", description="an event type; `payment.*` matches several")
    ] = None,
    tenant: str | None = None,
    subject: str | None = None,
    correlation_id: str | None = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> EntryPage:
    """List the events that were published to domain exchanges, the newest first."""
    for word in (subject, correlation_id, type_):
        if word is not None and is_masked(word):
            raise Invalid("masked values can't be searched")
    found, more = await monitoring.search_journal(
        session,
        type_=type_,
        tenants=(tenant, operators.scope(caller)),
        subject=subject,
        correlation_id=correlation_id,
        since=since,
        until=until,
        cursor=cursor,
        limit=limit,
    )
    items = await shown(EntryView, found)
    next_cursor = encode_cursor(str(items[-1].offset)) if more else None
    return EntryPage(items=items, next_cursor=next_cursor)


@journal.get("/trace/{correlation_id:path}")
async def trace(
    caller: Viewer, session: Session, operators: Operators, correlation_id: str
) -> Trace:
    """Return every event with a correlation id, across all services."""
    return await operators.trace(session, caller, correlation_id)


@journal.post("/replays", status_code=202)
async def replay_window(
    caller: Operator, session: Session, operators: Operators, body: JournalReplayBody
) -> ReplayView:
    """Send the events of a time window to a queue again. Events that its service has already
    processed have no effect, unless they get new ids, which requires the role `admin`."""
    return await operators.replay_window(
        session, caller, body.window, body.reason, body.rate, body.concurrency
    )

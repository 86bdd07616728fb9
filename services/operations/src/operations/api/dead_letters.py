"""The API of dead letters."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from common.db.pagination import encode_cursor
from common.http.auth import Admin, Caller, Operator, Viewer
from common.http.resources import Session
from operations.api.dependencies import Operators
from operations.api.requests import DeadLetterSelection, Edit, NewNote
from operations.domain import LetterState
from operations.repository import dead_letters
from operations.schemas import GroupView, LetterDetail, LetterPage, Moved, NoteView, ReplayView
from operations.selection import Filter
from operations.service import OperatorService

letters = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"])


class LetterQuery(Filter):
    """A filter and a page of the dead letters that match it."""

    cursor: str | None = Field(default=None, description="`next_cursor` of the previous page")
    limit: int = Field(default=50, ge=1, le=200)

    def filter(self) -> Filter:
        return Filter.model_validate(self.model_dump(exclude={"cursor", "limit"}))


@letters.get("")
async def list_letters(
    caller: Viewer,
    session: Session,
    operators: Operators,
    body: Annotated[LetterQuery, Query()],
) -> LetterPage:
    """List dead letters, the newest failures first. Only open ones are listed unless `state` is
    given (`any` for all)."""
    found, more = await dead_letters.page(
        session, body.filter(), operators.scope(caller), body.cursor, body.limit
    )
    last = encode_cursor(found[-1].dead_lettered_at.isoformat(), found[-1].id) if more else None
    return LetterPage(items=await operators.lines(found), next_cursor=last)


@letters.get("/groups")
async def list_groups(
    caller: Viewer, session: Session, operators: Operators, body: Annotated[Filter, Query()]
) -> list[GroupView]:
    """List the 500 largest groups of dead letters, by queue, event type, error and stack."""
    return await operators.groups(session, caller, body)


@letters.post("/archive")
async def archive(
    caller: Operator, session: Session, operators: Operators, body: DeadLetterSelection
) -> Moved:
    """Archive dead letters: they are hidden and can be restored."""
    return await _move(session, operators, caller, body, LetterState.ARCHIVED)


@letters.post("/restore")
async def restore(
    caller: Operator, session: Session, operators: Operators, body: DeadLetterSelection
) -> Moved:
    """Reopen archived or discarded dead letters."""
    return await _move(session, operators, caller, body, LetterState.OPEN)


@letters.post("/discard")
async def discard(
    caller: Operator, session: Session, operators: Operators, body: DeadLetterSelection
) -> Moved:
    """Discard dead letters. They are stored, and can be restored, until the retention ends."""
    return await _move(session, operators, caller, body, LetterState.DISCARDED)


@letters.get("/{id_}")
async def get_letter(
    caller: Viewer, session: Session, operators: Operators, id_: str
) -> LetterDetail:
    return await operators.detail(session, caller, id_)


@letters.post("/{id_}/notes", status_code=201)
async def write_note(
    caller: Operator, session: Session, operators: Operators, id_: str, body: NewNote
) -> NoteView:
    async with session.begin():
        return await operators.write_note(session, caller, id_, body.text)


@letters.post("/{id_}/edit", status_code=202)
async def edit_and_replay(
    caller: Admin, session: Session, operators: Operators, id_: str, body: Edit
) -> ReplayView:
    """Send a dead letter with changed data as a new event, and mark the dead letter as replaced."""
    return await operators.edit(session, caller, id_, body.changes, body.reason)


async def _move(
    session: AsyncSession,
    operators: OperatorService,
    caller: Caller,
    body: DeadLetterSelection,
    to: LetterState,
) -> Moved:
    async with session.begin():
        return Moved(count=await operators.set_state(session, caller, body.wish(), to))

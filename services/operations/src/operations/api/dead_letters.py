"""Dead letters, replays and the journal for operators, `/v1`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime, Field
from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from common.db.pagination import decode_cursor, encode_cursor
from common.errors import Invalid
from common.http.auth import Admin, Caller, Operator, Viewer
from common.http.resources import Cursor, Limit, Session, part_of
from operations.api.requests import (
    DeadLetterSelection,
    Edit,
    JournalReplayBody,
    NewNote,
    ReasonBody,
    ReplayBody,
)
from operations.dead_letters import filters
from operations.dead_letters.filters import Filter
from operations.domain import ItemState, LetterState, ReplayState
from operations.models import JournalEntry, OperatorAction, Replay, ReplayItem
from operations.replay import planner
from operations.schemas import (
    ActionPage,
    ActionView,
    EntryPage,
    EntryView,
    ForecastView,
    GroupView,
    ItemPage,
    ItemView,
    LetterDetail,
    LetterPage,
    Moved,
    NoteView,
    ReplayPage,
    ReplayView,
    Trace,
    shown,
)
from operations.service import OperatorService, keyset

letters = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"])
replays = APIRouter(prefix="/v1/replays", tags=["replays"])
journal = APIRouter(prefix="/v1/journal", tags=["journal"])
actions = APIRouter(prefix="/v1/actions", tags=["actions"])

ROUTERS = (letters, replays, journal, actions)


def _operator_service(request: Request) -> OperatorService:
    return part_of(request, OperatorService)


Engine = Annotated[OperatorService, Depends(_operator_service)]
_LONGEST_NUMBER = 18


class LetterQuery(Filter):
    """A filter, and which page of what fits."""

    cursor: str | None = Field(default=None, description="`next_cursor` of the page before")
    limit: int = Field(default=50, ge=1, le=200)

    def filter(self) -> Filter:
        return Filter.model_validate(self.model_dump(exclude={"cursor", "limit"}))


@letters.get("")
async def list_letters(
    caller: Viewer,
    session: Session,
    operator_service: Engine,
    body: Annotated[LetterQuery, Query()],
) -> LetterPage:
    """The newest failure_count first; open ones unless another `state`, or `any`, is asked for."""
    found, more = await filters.page(
        session, body.filter(), operator_service.scope(caller), body.cursor, body.limit
    )
    last = encode_cursor(found[-1].dead_lettered_at.isoformat(), found[-1].id) if more else None
    return LetterPage(items=await operator_service.lines(found), next_cursor=last)


@letters.get("/groups")
async def list_groups(
    caller: Viewer, session: Session, operator_service: Engine, body: Annotated[Filter, Query()]
) -> list[GroupView]:
    """By what failed: queue, event type, error and the stack that it came by; the largest 500."""
    return await operator_service.groups(session, caller, body)


@letters.post("/archive")
async def archive(
    caller: Operator, session: Session, operator_service: Engine, body: DeadLetterSelection
) -> Moved:
    """Out of sight; they may be restored."""
    return await _move(session, operator_service, caller, body, LetterState.ARCHIVED)


@letters.post("/restore")
async def restore(
    caller: Operator, session: Session, operator_service: Engine, body: DeadLetterSelection
) -> Moved:
    """Archived or discarded ones are open again."""
    return await _move(session, operator_service, caller, body, LetterState.OPEN)


@letters.post("/discard")
async def discard(
    caller: Operator, session: Session, operator_service: Engine, body: DeadLetterSelection
) -> Moved:
    """Given up for good; what they said is kept."""
    return await _move(session, operator_service, caller, body, LetterState.DISCARDED)


@letters.get("/{id_}")
async def get_letter(
    caller: Viewer, session: Session, operator_service: Engine, id_: str
) -> LetterDetail:
    return await operator_service.detail(session, caller, id_)


@letters.post("/{id_}/notes", status_code=201)
async def write_note(
    caller: Operator, session: Session, operator_service: Engine, id_: str, body: NewNote
) -> NoteView:
    async with session.begin():
        return await operator_service.write_note(session, caller, id_, body.text)


@letters.post("/{id_}/edit", status_code=202)
async def edit_and_replay(
    caller: Admin, session: Session, operator_service: Engine, id_: str, body: Edit
) -> ReplayView:
    """Send it with changed data, as a new event; this one is marked as replaced."""
    return await operator_service.edit(session, caller, id_, body.changes, body.reason)


@replays.post("", status_code=202, responses={200: {"model": ForecastView}})
async def order_replay(
    caller: Operator, request: Request, response: Response, session: Session,
    operator_service: Engine, body: ReplayBody,
) -> ReplayView | ForecastView:  # fmt: skip
    """Send dead letters again. The set is frozen now; with `dry_run` it only says what it would
    do."""
    token = request.headers.get("authorization", "")
    if body.dry_run:
        response.status_code = HTTPStatus.OK
        found = await operator_service.forecast(session, caller, body.wish(), token)
        return ForecastView.model_validate(found)
    return await operator_service.replay(session, caller, body.wish(), token)


@replays.get("")
async def list_replays(
    caller: Viewer,
    session: Session,
    operator_service: Engine,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ReplayPage:
    query = select(Replay)
    if (scope := operator_service.scope(caller)) is not None:
        query = query.where(Replay.tenant == scope)
    found, more = await keyset(session, query, Replay.created_at, Replay.id, cursor, limit)
    last = encode_cursor(found[-1].created_at.isoformat(), found[-1].id) if more else None
    views = [await operator_service.show_replay(session, each) for each in found]
    return ReplayPage(items=views, next_cursor=last)


@replays.get("/{id_}")
async def get_replay(
    caller: Viewer, session: Session, operator_service: Engine, id_: str
) -> ReplayView:
    return await operator_service.show_replay(
        session, await operator_service.find_replay(session, caller, id_)
    )


@replays.get("/{id_}/items")
async def list_items(
    caller: Viewer,
    session: Session,
    operator_service: Engine,
    id_: str,
    state: ItemState | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ItemPage:
    """In the order in which they are sent."""
    await operator_service.find_replay(session, caller, id_)
    query = select(ReplayItem).where(ReplayItem.replay_id == id_)
    if state is not None:
        query = query.where(ReplayItem.state == state)
    if cursor is not None:
        position, last = decode_cursor(cursor, 2)
        query = query.where(
            tuple_(ReplayItem.position, ReplayItem.id) > tuple_(_number(position), last)
        )
    query = query.order_by(ReplayItem.position, ReplayItem.id).limit(limit + 1)
    found = (await session.scalars(query)).all()
    items = await shown(ItemView, found[:limit])
    more = len(found) > limit
    next_cursor = encode_cursor(str(items[-1].position), items[-1].id) if more else None
    return ItemPage(items=items, next_cursor=next_cursor)


@replays.post("/{id_}/pause")
async def pause(
    caller: Operator, session: Session, operator_service: Engine, id_: str, why: ReasonBody
) -> ReplayView:
    """Nothing more is sent; what is with its consumers goes on."""
    return await _change(session, operator_service, caller, id_, ReplayState.PAUSED, why)


@replays.post("/{id_}/resume")
async def resume(
    caller: Operator, session: Session, operator_service: Engine, id_: str, why: ReasonBody
) -> ReplayView:
    return await _change(session, operator_service, caller, id_, ReplayState.RUNNING, why)


@replays.post("/{id_}/cancel")
async def cancel(
    caller: Operator, session: Session, operator_service: Engine, id_: str, why: ReasonBody
) -> ReplayView:
    """For good: what was not sent is open again."""
    return await _change(session, operator_service, caller, id_, ReplayState.CANCELLED, why)


@journal.get("")
async def search_journal(
    caller: Viewer,
    session: Session,
    operator_service: Engine,
    type_: Annotated[str | None, Query(alias="type", description="`payment.*` for several")] = None,
    tenant: str | None = None,
    subject: str | None = None,
    correlation_id: str | None = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> EntryPage:
    """What was published to domain exchanges, the newest first."""
    for word in (subject, correlation_id, type_):
        if word is not None and filters.is_masked(word):
            raise Invalid("what is masked where it is shown can't be looked for")
    query = select(JournalEntry)
    for column, value in (
        (JournalEntry.tenant, tenant),
        (JournalEntry.tenant, operator_service.scope(caller)),
        (JournalEntry.subject, subject),
        (JournalEntry.correlation_id, correlation_id),
    ):
        if value is not None:
            query = query.where(column == value)
    if type_ is not None:
        several = JournalEntry.type.startswith(type_.removesuffix("*"), autoescape=True)
        query = query.where(several if type_.endswith("*") else JournalEntry.type == type_)
    if since is not None:
        query = query.where(JournalEntry.recorded_at >= since)
    if until is not None:
        query = query.where(JournalEntry.recorded_at < until)
    if cursor is not None:
        (offset,) = decode_cursor(cursor, 1)
        query = query.where(JournalEntry.offset < _number(offset))
    query = query.order_by(JournalEntry.offset.desc()).limit(limit + 1)
    found = (await session.scalars(query)).all()
    items = await shown(EntryView, found[:limit])
    next_cursor = encode_cursor(str(items[-1].offset)) if len(found) > limit else None
    return EntryPage(items=items, next_cursor=next_cursor)


@journal.get("/trace/{correlation_id:path}")
async def trace(
    caller: Viewer, session: Session, operator_service: Engine, correlation_id: str
) -> Trace:
    """The life of one correlation id over all services."""
    return await operator_service.trace(session, caller, correlation_id)


@journal.post("/replays", status_code=202)
async def replay_window(
    caller: Operator, session: Session, operator_service: Engine, body: JournalReplayBody
) -> ReplayView:
    """Give a queue the events of a window again. What its service has taken in already changes
    nothing, unless they get new ids, for which one has to be an admin."""
    return await operator_service.replay_window(
        session, caller, body.window, body.reason, body.rate, body.concurrency
    )


@actions.get("")
async def list_actions(
    caller: Viewer,
    session: Session,
    operator_service: Engine,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ActionPage:
    """Who did what, when and why; the newest first."""
    query = select(OperatorAction)
    if (scope := operator_service.scope(caller)) is not None:
        query = query.where(OperatorAction.tenant == scope)
    found, more = await keyset(session, query, OperatorAction.at, OperatorAction.id, cursor, limit)
    last = encode_cursor(found[-1].at.isoformat(), found[-1].id) if more else None
    return ActionPage(items=await shown(ActionView, found), next_cursor=last)


def _number(part: str) -> int:
    """Of a cursor."""
    if not part.isdecimal() or len(part) > _LONGEST_NUMBER:
        raise Invalid("the cursor is not one that this endpoint gave out")
    return int(part)


async def _move(
    session: AsyncSession,
    operator_service: OperatorService,
    caller: Caller,
    body: DeadLetterSelection,
    to: LetterState,
) -> Moved:
    async with session.begin():
        return Moved(count=await operator_service.set_state(session, caller, body.wish(), to))


async def _change(
    session: AsyncSession,
    operator_service: OperatorService,
    caller: Caller,
    id_: str,
    to: ReplayState,
    why: ReasonBody,
) -> ReplayView:
    async with session.begin():
        await operator_service.find_replay(session, caller, id_)
        replay = await planner.set_state(session, id_, caller, to, why.reason)
        return await operator_service.show_replay(session, replay)

"""Dead letters, replays and the journal for operators, `/v1`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime, Field
from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from common.api import Cursor, Limit, Session
from common.auth import Admin, Caller, Operator, Viewer
from common.errors import Invalid
from common.http import decode_cursor, encode_cursor
from operations import ordering, selecting
from operations.desk import Desk, keyset
from operations.domain import ItemState, LetterState, ReplayState
from operations.models import Action, Item, JournalEntry, Replay
from operations.requests import Edit, NewNote, ReplayWish, Selection, Why, WindowWish
from operations.selecting import Filter
from operations.views import (
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
)

letters = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"])
replays = APIRouter(prefix="/v1/replays", tags=["replays"])
journal = APIRouter(prefix="/v1/journal", tags=["journal"])
actions = APIRouter(prefix="/v1/actions", tags=["actions"])

ROUTERS = (letters, replays, journal, actions)


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


Engine = Annotated[Desk, Depends(_desk)]


class LetterQuery(Filter):
    """A filter, and which page of what fits."""

    cursor: str | None = Field(default=None, description="`next_cursor` of the page before")
    limit: int = Field(default=50, ge=1, le=200)

    def filter(self) -> Filter:
        return Filter.model_validate(self.model_dump(exclude={"cursor", "limit"}))


@letters.get("")
async def list_letters(
    caller: Viewer, session: Session, desk: Engine, wanted: Annotated[LetterQuery, Query()]
) -> LetterPage:
    """The newest deaths first; open ones unless another `state`, or `any`, is asked for."""
    found, more = await selecting.page(
        session, wanted.filter(), desk.scope(caller), wanted.cursor, wanted.limit
    )
    last = encode_cursor(found[-1].died_at.isoformat(), found[-1].id) if more else None
    return LetterPage(items=[desk.line(each) for each in found], next_cursor=last)


@letters.get("/groups")
async def list_groups(
    caller: Viewer, session: Session, desk: Engine, wanted: Annotated[Filter, Query()]
) -> list[GroupView]:
    """By what failed: queue, event type, error and the stack that it came by."""
    return await desk.groups(session, caller, wanted)


@letters.post("/archive")
async def archive(caller: Operator, session: Session, desk: Engine, wanted: Selection) -> Moved:
    """Out of sight; they may be restored."""
    return await _move(session, desk, caller, wanted, LetterState.ARCHIVED)


@letters.post("/restore")
async def restore(caller: Operator, session: Session, desk: Engine, wanted: Selection) -> Moved:
    """Archived or discarded ones are open again."""
    return await _move(session, desk, caller, wanted, LetterState.OPEN)


@letters.post("/discard")
async def discard(caller: Operator, session: Session, desk: Engine, wanted: Selection) -> Moved:
    """Given up for good; what they said is kept."""
    return await _move(session, desk, caller, wanted, LetterState.DISCARDED)


@letters.get("/{id_}")
async def get_letter(caller: Viewer, session: Session, desk: Engine, id_: str) -> LetterDetail:
    return await desk.detail(session, caller, id_)


@letters.post("/{id_}/notes", status_code=201)
async def write_note(
    caller: Operator, session: Session, desk: Engine, id_: str, wanted: NewNote
) -> NoteView:
    async with session.begin():
        return await desk.write_note(session, caller, id_, wanted.text)


@letters.post("/{id_}/edit", status_code=202)
async def edit_and_replay(
    caller: Admin, session: Session, desk: Engine, id_: str, wanted: Edit
) -> ReplayView:
    """Send it with changed data, as a new event; this one is marked as replaced."""
    return await desk.edit(session, caller, id_, wanted.changes, wanted.reason)


@replays.post("", status_code=202, responses={200: {"model": ForecastView}})
async def order_replay(
    caller: Operator, request: Request, response: Response, session: Session, desk: Engine,
    wanted: ReplayWish,
) -> ReplayView | ForecastView:  # fmt: skip
    """Send dead letters again. The set is frozen now; with `dry_run` it only says what it would
    do."""
    token = request.headers.get("authorization", "")
    if wanted.dry_run:
        response.status_code = HTTPStatus.OK
        found = await desk.forecast(session, caller, wanted.wish(), token)
        return ForecastView.model_validate(found)
    return await desk.replay(session, caller, wanted.wish(), token)


@replays.get("")
async def list_replays(
    caller: Viewer, session: Session, desk: Engine, cursor: Cursor = None, limit: Limit = 50
) -> ReplayPage:
    query = select(Replay)
    if (scope := desk.scope(caller)) is not None:
        query = query.where(Replay.tenant == scope)
    found, more = await keyset(session, query, Replay.created_at, Replay.id, cursor, limit)
    last = encode_cursor(found[-1].created_at.isoformat(), found[-1].id) if more else None
    views = [await desk.show_replay(session, each) for each in found]
    return ReplayPage(items=views, next_cursor=last)


@replays.get("/{id_}")
async def get_replay(caller: Viewer, session: Session, desk: Engine, id_: str) -> ReplayView:
    return await desk.show_replay(session, await desk.find_replay(session, caller, id_))


@replays.get("/{id_}/items")
async def list_items(
    caller: Viewer,
    session: Session,
    desk: Engine,
    id_: str,
    state: ItemState | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ItemPage:
    """In the order in which they are sent."""
    await desk.find_replay(session, caller, id_)
    query = select(Item).where(Item.replay_id == id_)
    if state is not None:
        query = query.where(Item.state == state)
    if cursor is not None:
        position, last = decode_cursor(cursor, 2)
        query = query.where(tuple_(Item.position, Item.id) > tuple_(_number(position), last))
    query = query.order_by(Item.position, Item.id).limit(limit + 1)
    found = (await session.scalars(query)).all()
    items = [ItemView.model_validate(each) for each in found[:limit]]
    more = len(found) > limit
    next_cursor = encode_cursor(str(items[-1].position), items[-1].id) if more else None
    return ItemPage(items=items, next_cursor=next_cursor)


@replays.post("/{id_}/pause")
async def pause(caller: Operator, session: Session, desk: Engine, id_: str, why: Why) -> ReplayView:
    """Nothing more is sent; what is with its consumers goes on."""
    return await _change(session, desk, caller, id_, ReplayState.PAUSED, why)


@replays.post("/{id_}/resume")
async def resume(
    caller: Operator, session: Session, desk: Engine, id_: str, why: Why
) -> ReplayView:
    return await _change(session, desk, caller, id_, ReplayState.RUNNING, why)


@replays.post("/{id_}/cancel")
async def cancel(
    caller: Operator, session: Session, desk: Engine, id_: str, why: Why
) -> ReplayView:
    """For good: what was not sent is open again."""
    return await _change(session, desk, caller, id_, ReplayState.CANCELLED, why)


@journal.get("")
async def search_journal(
    caller: Viewer,
    session: Session,
    desk: Engine,
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
    query = select(JournalEntry)
    for column, value in (
        (JournalEntry.tenant, tenant),
        (JournalEntry.tenant, desk.scope(caller)),
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
    items = [EntryView.model_validate(each) for each in found[:limit]]
    next_cursor = encode_cursor(str(items[-1].offset)) if len(found) > limit else None
    return EntryPage(items=items, next_cursor=next_cursor)


@journal.get("/trace/{correlation_id:path}")
async def trace(caller: Viewer, session: Session, desk: Engine, correlation_id: str) -> Trace:
    """The life of one correlation id over all services."""
    return await desk.trace(session, caller, correlation_id)


@journal.post("/replays", status_code=202)
async def replay_window(
    caller: Operator, session: Session, desk: Engine, wanted: WindowWish
) -> ReplayView:
    """Give a queue the events of a window again. What its service has taken in already changes
    nothing, unless they get new ids, for which one has to be an admin."""
    return await desk.replay_window(
        session, caller, wanted.window, wanted.reason, wanted.rate, wanted.concurrency
    )


@actions.get("")
async def list_actions(
    caller: Viewer, session: Session, desk: Engine, cursor: Cursor = None, limit: Limit = 50
) -> ActionPage:
    """Who did what, when and why; the newest first."""
    query = select(Action)
    if (scope := desk.scope(caller)) is not None:
        query = query.where(Action.tenant == scope)
    found, more = await keyset(session, query, Action.at, Action.id, cursor, limit)
    last = encode_cursor(found[-1].at.isoformat(), found[-1].id) if more else None
    views = [ActionView.model_validate(each) for each in found]
    return ActionPage(items=views, next_cursor=last)


def _number(part: str) -> int:
    """Of a cursor."""
    if not part.isdecimal():
        raise Invalid("the cursor is not one that this endpoint gave out")
    return int(part)


async def _move(
    session: AsyncSession, desk: Desk, caller: Caller, wanted: Selection, to: LetterState
) -> Moved:
    async with session.begin():
        return Moved(count=await desk.move(session, caller, wanted.wish(), to))


async def _change(
    session: AsyncSession, desk: Desk, caller: Caller, id_: str, to: ReplayState, why: Why
) -> ReplayView:
    async with session.begin():
        await desk.find_replay(session, caller, id_)
        replay = await ordering.change(session, id_, caller, to, why.reason)
        return await desk.show_replay(session, replay)

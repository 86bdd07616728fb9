"""The pages of the console."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from pydantic import AwareDatetime, TypeAdapter, ValidationError

from common.contracts import topology
from common.db.pagination import encode_cursor
from common.errors import Invalid, validation_faults
from common.http.resources import Session, part_of
from operations.api.actions import list_actions
from operations.api.journal import search_journal
from operations.api.overview import overview_of
from operations.api.replays import list_replays
from operations.console.forms import FILTERS
from operations.console.rendering import Route, given, go_to, page
from operations.console.session import SignedIn
from operations.domain import LetterState
from operations.monitoring.service_clients import Services
from operations.repository import dead_letters
from operations.repository import replays as repository
from operations.schemas import ItemView, shown
from operations.selection import Filter
from operations.service import OperatorService

pages = APIRouter(prefix="/console", route_class=Route, include_in_schema=False)

_STATIC = Path(__file__).parent / "static"
_LIMIT = 50
_TIMES: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)
_REFRESH_SECONDS = 2


def _operator_service(request: Request) -> OperatorService:
    return part_of(request, OperatorService)


@pages.get("/style.css")
async def style() -> FileResponse:
    return FileResponse(_STATIC / "style.css", media_type="text/css")


@pages.get("/icon.svg")
async def icon() -> FileResponse:
    return FileResponse(_STATIC / "icon.svg", media_type="image/svg+xml")


@pages.get("/login")
async def login() -> HTMLResponse:
    return page("login.html", None, error=None)


@pages.get("")
async def overview(visitor: SignedIn, request: Request, session: Session) -> Response:
    if not visitor.operating:
        return go_to("/console/groups")
    found = await overview_of(visitor.caller, request, session, visitor.header)
    groups = await _operator_service(request).groups(session, visitor.caller, Filter())
    return page("overview.html", visitor, found=found, groups=groups[:5], refresh=10)


@pages.get("/groups")
async def groups(visitor: SignedIn, request: Request, session: Session) -> Response:
    found = await _operator_service(request).groups(session, visitor.caller, Filter())
    return page("groups.html", visitor, groups=found)


@pages.get("/dead-letters")
async def letters(
    visitor: SignedIn,
    request: Request,
    session: Session,
    state: str = "open",
    cursor: str | None = None,
) -> Response:
    operator_service = _operator_service(request)
    chosen = given(**{name: request.query_params.get(name) for name in FILTERS}) | {"state": state}
    try:
        filter_ = Filter.model_validate(chosen)
    except ValidationError as error:
        raise Invalid(validation_faults(error)) from None
    found, more = await dead_letters.page(
        session, filter_, operator_service.scope(visitor.caller), cursor, _LIMIT
    )
    following = None
    if more:
        last = encode_cursor(found[-1].dead_lettered_at.isoformat(), found[-1].id)
        following = urlencode({**chosen, "cursor": last})
    return page(
        "letters.html",
        visitor,
        letters=await operator_service.lines(found),
        chosen=chosen,
        filters=FILTERS,
        states=[*LetterState, "any"],
        following=following,
    )


@pages.get("/dead-letters/{id_}")
async def letter(visitor: SignedIn, request: Request, session: Session, id_: str) -> Response:
    operator_service = _operator_service(request)
    found = await operator_service.detail(session, visitor.caller, id_)
    return page("letter.html", visitor, letter=found, editing=operator_service.editing)


@pages.get("/replays")
async def replays(
    visitor: SignedIn, request: Request, session: Session, cursor: str | None = None
) -> Response:
    found = await list_replays(visitor.caller, session, _operator_service(request), cursor, _LIMIT)
    return page("replays.html", visitor, replays=found.items, following=found.next_cursor)


@pages.get("/replays/{id_}")
async def replay(visitor: SignedIn, request: Request, session: Session, id_: str) -> Response:
    operator_service = _operator_service(request)
    found = await operator_service.show_replay(
        session, await operator_service.find_replay(session, visitor.caller, id_)
    )
    items = await repository.failed_items(session, id_, _LIMIT)
    over = found.state in {"done", "cancelled"} and found.completed == found.total
    return page(
        "replay.html",
        visitor,
        replay=found,
        items=await shown(ItemView, items),
        refresh=None if over else _REFRESH_SECONDS,
    )


@pages.get("/journal")
async def journal(
    visitor: SignedIn,
    request: Request,
    session: Session,
    type_: Annotated[str | None, Query(alias="type")] = None,
    subject: str | None = None,
    tenant: str | None = None,
    correlation_id: str | None = None,
    since: str | None = None,
    until: str | None = None,
    cursor: str | None = None,
) -> Response:
    chosen = given(
        type=type_,
        subject=subject,
        tenant=tenant,
        correlation_id=correlation_id,
        since=since,
        until=until,
    )
    found = await search_journal(
        visitor.caller,
        session,
        _operator_service(request),
        type_ or None,
        tenant or None,
        subject or None,
        correlation_id or None,
        _time(since),
        _time(until),
        cursor,
        _LIMIT,
    )
    following = None
    if found.next_cursor is not None:
        following = urlencode({**chosen, "cursor": found.next_cursor})
    return page(
        "journal.html",
        visitor,
        entries=found.items,
        chosen=chosen,
        following=following,
        queues=sorted(each.name for each in topology.QUEUES),
    )


@pages.get("/journal/{correlation_id:path}")
async def trace(
    visitor: SignedIn, request: Request, session: Session, correlation_id: str
) -> Response:
    found = await _operator_service(request).trace(session, visitor.caller, correlation_id)
    return page("trace.html", visitor, trace=found)


@pages.get("/jobs")
async def jobs(visitor: SignedIn, request: Request) -> Response:
    _operator_service(request).only_operating(visitor.caller)
    services = part_of(request, Services)
    return page("jobs.html", visitor, jobs=await services.jobs(visitor.header))


@pages.get("/actions")
async def actions(
    visitor: SignedIn, request: Request, session: Session, cursor: str | None = None
) -> Response:
    found = await list_actions(visitor.caller, session, _operator_service(request), cursor, _LIMIT)
    return page("actions.html", visitor, actions=found.items, following=found.next_cursor)


def _time(text: str | None) -> datetime | None:
    """Parse a time with a zone. Raises `Invalid`."""
    if not text:
        return None
    try:
        return _TIMES.validate_python(text)
    except ValidationError:
        raise Invalid(f"{text!r} is not a time with a zone, such as 2026-11-22T10:00:00Z") from None

"""The API of replays."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from common.db.pagination import encode_cursor
from common.http.auth import Caller, Operator, Viewer
from common.http.resources import Cursor, Limit, Session
from operations.api.dependencies import Operators
from operations.api.requests import ReasonBody, ReplayBody
from operations.domain import ItemState, ReplayState
from operations.replay import planner
from operations.repository import replays as stored
from operations.schemas import ForecastView, ItemPage, ItemView, ReplayPage, ReplayView, shown
from operations.service import OperatorService

replays = APIRouter(prefix="/v1/replays", tags=["replays"])


@replays.post("", status_code=202, responses={200: {"model": ForecastView}})
async def create_replay(
    caller: Operator, request: Request, response: Response, session: Session,
    operators: Operators, body: ReplayBody,
) -> ReplayView | ForecastView:  # fmt: skip
    """Send dead letters again. The set is chosen at the time of the request and does not change.
    With `dry_run`, nothing is sent; the response states what would be sent and skipped."""
    token = request.headers.get("authorization", "")
    if body.dry_run:
        response.status_code = HTTPStatus.OK
        found = await operators.dry_run(session, caller, body.wish(), token)
        return ForecastView.model_validate(found)
    return await operators.replay(session, caller, body.wish(), token)


@replays.get("")
async def list_replays(
    caller: Viewer,
    session: Session,
    operators: Operators,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ReplayPage:
    found, more = await stored.page(session, operators.scope(caller), cursor, limit)
    last = encode_cursor(found[-1].created_at.isoformat(), found[-1].id) if more else None
    views = [await operators.show_replay(session, each) for each in found]
    return ReplayPage(items=views, next_cursor=last)


@replays.get("/{id_}")
async def get_replay(
    caller: Viewer, session: Session, operators: Operators, id_: str
) -> ReplayView:
    return await operators.show_replay(session, await operators.find_replay(session, caller, id_))


@replays.get("/{id_}/items")
async def list_items(
    caller: Viewer,
    session: Session,
    operators: Operators,
    id_: str,
    state: ItemState | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ItemPage:
    """List the messages of a replay in the order in which they are sent."""
    await operators.find_replay(session, caller, id_)
    found, more = await stored.items(session, id_, state, cursor, limit)
    items = await shown(ItemView, found)
    next_cursor = encode_cursor(str(items[-1].position), items[-1].id) if more else None
    return ItemPage(items=items, next_cursor=next_cursor)


@replays.post("/{id_}/pause")
async def pause(
    caller: Operator, session: Session, operators: Operators, id_: str, why: ReasonBody
) -> ReplayView:
    """Pause a replay. Messages that their consumers already have are not stopped."""
    return await _change(session, operators, caller, id_, ReplayState.PAUSED, why)


@replays.post("/{id_}/resume")
async def resume(
    caller: Operator, session: Session, operators: Operators, id_: str, why: ReasonBody
) -> ReplayView:
    return await _change(session, operators, caller, id_, ReplayState.RUNNING, why)


@replays.post("/{id_}/cancel")
async def cancel(
    caller: Operator, session: Session, operators: Operators, id_: str, why: ReasonBody
) -> ReplayView:
    """Cancel a replay permanently; the dead letters that were not sent are open again."""
    return await _change(session, operators, caller, id_, ReplayState.CANCELLED, why)


async def _change(
    session: AsyncSession,
    operators: OperatorService,
    caller: Caller,
    id_: str,
    to: ReplayState,
    why: ReasonBody,
) -> ReplayView:
    async with session.begin():
        await operators.find_replay(session, caller, id_)
        replay = await planner.set_state(session, id_, caller, to, why.reason)
        return await operators.show_replay(session, replay)

"""The API of the log of operators' actions."""

from __future__ import annotations

from fastapi import APIRouter

from common.db.pagination import encode_cursor
from common.http.auth import Viewer
from common.http.resources import Cursor, Limit, Session
from operations.api.dependencies import Operators
from operations.repository import monitoring
from operations.schemas import ActionPage, ActionView, shown

actions = APIRouter(prefix="/v1/actions", tags=["actions"])


@actions.get("")
async def list_actions(
    caller: Viewer,
    session: Session,
    operators: Operators,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ActionPage:
    """Every action with its actor, time and reason; the newest first."""
    found, more = await monitoring.actions(session, operators.scope(caller), cursor, limit)
    last = encode_cursor(found[-1].at.isoformat(), found[-1].id) if more else None
    return ActionPage(items=await shown(ActionView, found), next_cursor=last)

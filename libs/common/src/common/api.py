"""What the `/v1` APIs of all services have in common: the session, pages, schedules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from common import rows, scheduler
from common.auth import Authenticator, Caller, Operator, Viewer
from common.errors import Forbidden
from common.http import encode_cursor
from common.rows import RowT
from common.settings import AuthSettings
from common.throttling import Throttle


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(_session)]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before")]
Limit = Annotated[int, Query(ge=1, le=200)]
IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="of the caller's choice; the same request with the same key is done once",
    ),
]


def secure(app: FastAPI, settings: AuthSettings) -> None:
    """Who may call it, and how often; the middleware of every app does it."""
    app.state.authenticator = Authenticator(settings)
    app.state.throttle = Throttle(settings)


class View(BaseModel):
    """A row as callers see it."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    created_at: datetime = Field(description="when Paybus first heard of it, UTC")


ViewT = TypeVar("ViewT", bound=View)


class Page(BaseModel, Generic[ViewT]):
    """`next_cursor` is null on the last page."""

    items: list[ViewT]
    next_cursor: str | None


async def page(
    session: AsyncSession,
    table: type[RowT],
    view: type[ViewT],
    tenant: str,
    filters: Mapping[str, Any],
    cursor: str | None,
    limit: int,
) -> Page[ViewT]:
    query = rows.matching(table, tenant, filters)
    found, more = await rows.page(session, query, table, cursor=cursor, limit=limit)
    return as_page([view.model_validate(row) for row in found], more)


def as_page(views: list[ViewT], more: bool) -> Page[ViewT]:
    last = encode_cursor(views[-1].created_at.isoformat(), views[-1].id) if more else None
    return Page[ViewT](items=views, next_cursor=last)


class ScheduleView(BaseModel):
    """A scheduled job and how its last run ended. Times are UTC."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    expression: str
    paused: bool
    next_run_at: datetime
    last_run_at: datetime | None
    last_duration_seconds: float | None
    last_outcome: str | None
    last_result: str | None
    cancelled_at: datetime | None = Field(description="runs ordered until then do not begin")


class RunOrdered(BaseModel):
    run_id: str


def schedules_router(service: str, tenant: str) -> APIRouter:
    """See, pause, resume, run and cancel the service's scheduled jobs, which serve all tenants:
    only for callers of `tenant`, the one that runs them."""
    router = APIRouter(prefix="/v1/schedules", tags=["schedules"])

    def check(caller: Caller) -> None:
        if caller.tenant != tenant:
            raise Forbidden("schedules serve all tenants; another one runs them (TENANT)")

    @router.get("")
    async def list_schedules(caller: Viewer, session: Session) -> list[ScheduleView]:
        check(caller)
        return [ScheduleView(**row) for row in await scheduler.list_all(session)]

    @router.post("/{name}/pause")
    async def pause(caller: Operator, session: Session, name: str) -> ScheduleView:
        check(caller)
        return await _set_paused(session, name, True)

    @router.post("/{name}/resume")
    async def resume(caller: Operator, session: Session, name: str) -> ScheduleView:
        check(caller)
        return await _set_paused(session, name, False)

    @router.post("/{name}/cancel")
    async def cancel(caller: Operator, session: Session, name: str) -> ScheduleView:
        check(caller)
        async with session.begin():
            return ScheduleView(**await scheduler.cancel(session, name))

    @router.post("/{name}/run", status_code=202)
    async def run(caller: Operator, session: Session, name: str) -> RunOrdered:
        check(caller)
        async with session.begin():
            await scheduler.get(session, name)
            now = await rows.clock(session)
            run_id = await scheduler.order_run(
                session, service=service, tenant=caller.tenant, job=name, at=now
            )
        return RunOrdered(run_id=run_id)

    return router


async def _set_paused(session: AsyncSession, name: str, paused: bool) -> ScheduleView:
    async with session.begin():
        return ScheduleView(**await scheduler.set_paused(session, name, paused=paused))

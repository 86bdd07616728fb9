"""`/v1/schedules`: list, pause, run and cancel a service's scheduled jobs."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from common.db import tenant_rows
from common.errors import Forbidden
from common.http.auth import Caller, Operator, Viewer
from common.http.resources import Session
from common.scheduling import scheduler


class ScheduleView(BaseModel):
    """Scheduled job and the outcome of its last run. Times are in UTC."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    expression: str
    paused: bool
    next_run_at: datetime
    last_run_at: datetime | None
    last_duration_seconds: float | None
    last_outcome: str | None
    last_result: str | None
    cancelled_at: datetime | None = Field(description="runs enqueued up to this time do not start")


class RunOrdered(BaseModel):
    run_id: str


def schedules_router(service: str, tenant: str) -> APIRouter:
    """Return the endpoints that list, pause, resume, run and cancel the service's scheduled jobs.

    The jobs serve all tenants, so only callers of `tenant`, which runs them, have access.
    """
    router = APIRouter(prefix="/v1/schedules", tags=["schedules"])

    def check(caller: Caller) -> None:
        if caller.tenant != tenant:
            raise Forbidden(
                "schedules serve all tenants: only the operating tenant may change them "
                "(OPERATOR_TENANT)"
            )

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
            now = await tenant_rows.database_now(session)
            run_id = await scheduler.enqueue_run(
                session, service=service, tenant=caller.tenant, job=name, at=now
            )
        return RunOrdered(run_id=run_id)

    return router


async def _set_paused(session: AsyncSession, name: str, paused: bool) -> ScheduleView:
    async with session.begin():
        return ScheduleView(**await scheduler.set_paused(session, name, paused=paused))

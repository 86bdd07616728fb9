"""How everything is, and the clock's jobs of all services."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select

from common.api import Session
from common.auth import Operator, Viewer
from common.errors import NotFound
from operations import audit
from operations.desk import Desk
from operations.domain import LetterState
from operations.models import JournalEntry, JournalMark, Letter, QueueFigure
from operations.services import ACTIONS, Services

overview = APIRouter(tags=["overview"])
jobs = APIRouter(prefix="/v1/jobs", tags=["jobs"])

ROUTERS = (overview, jobs)


class QueueView(BaseModel):
    """`messages` wait, and have done so since `since`; `at` is when the broker said so."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    messages: int
    consumers: int
    since: datetime | None
    at: datetime


class Overview(BaseModel):
    """`services` by name: `ok`, or what is wrong. `dead_letters` are the open ones by queue, `died`
    how many died in the last hour and day. `journal_at` is when the newest indexed event was
    recorded, `journal_missed` how many the stream forgot before they were indexed."""

    services: dict[str, str]
    queues: list[QueueView]
    dead_letters: dict[str, int]
    died: dict[str, int]
    journal_at: datetime | None
    journal_missed: int


@overview.get("/health/detailed")
async def detailed(caller: Viewer, request: Request, session: Session) -> Overview:
    """From the broker's and the services' own figures."""
    desk: Desk = request.app.state.desk
    desk.only_operating(caller)
    services: Services = request.app.state.services
    health = await services.health()
    found = await session.scalars(select(QueueFigure).order_by(QueueFigure.name))
    counting = select(Letter.queue, func.count()).where(Letter.state == LetterState.OPEN)
    counted = await session.execute(counting.group_by(Letter.queue).order_by(Letter.queue))
    ages = {
        name: func.count().filter(
            Letter.died_at > func.now() - func.make_interval(0, 0, 0, 0, hours)
        )
        for name, hours in (("hour", 1), ("day", 24))
    }
    died = (await session.execute(select(*ages.values()))).one()
    mark = await session.get(JournalMark, 1)
    newest = select(JournalEntry.recorded_at).order_by(JournalEntry.offset.desc()).limit(1)
    return Overview(
        services=health,
        queues=[QueueView.model_validate(each) for each in found],
        dead_letters={row[0]: row[1] for row in counted},
        died=dict(zip(ages, died, strict=True)),
        journal_at=await session.scalar(newest),
        journal_missed=mark.missed if mark is not None else 0,
    )


@jobs.get("")
async def list_jobs(caller: Viewer, request: Request) -> list[dict[str, Any]]:
    """The scheduled jobs of all services: last run, next, duration, result."""
    desk: Desk = request.app.state.desk
    desk.only_operating(caller)
    services: Services = request.app.state.services
    return await services.jobs(request.headers.get("authorization", ""))


@jobs.post("/{service}/{name}/{action}")
async def act(
    caller: Operator, request: Request, session: Session, service: str, name: str, action: str
) -> Any:
    """`run`, `pause`, `resume` or `cancel`."""
    desk: Desk = request.app.state.desk
    desk.only_operating(caller)
    if action not in ACTIONS:
        raise NotFound(f"a job can be told to {', '.join(sorted(ACTIONS))}")
    services: Services = request.app.state.services
    said = await services.act(service, name, action, request.headers.get("authorization", ""))
    async with session.begin():
        audit.note(session, caller, f"job {action}", f"job/{service}/{name}", None)
    return said

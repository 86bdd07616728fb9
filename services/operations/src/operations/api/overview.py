"""The health overview, and the scheduled jobs of all services."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, computed_field
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.retry_ladder import QUEUE_PREFIX
from common.errors import NotFound
from common.http.auth import Caller, Operator, Viewer
from common.http.resources import Session, part_of
from operations import action_log
from operations.monitoring.service_clients import ACTIONS, WELL, ProviderView, Services, ServiceView
from operations.repository import dead_letters, monitoring
from operations.service import OperatorService

overview = APIRouter(tags=["overview"])
_FRESH = timedelta(seconds=20)

jobs = APIRouter(prefix="/v1/jobs", tags=["jobs"])

ROUTERS = (overview, jobs)


class QueueView(BaseModel):
    """`messages` wait in the queue, which has not been empty since `since`; `at` is when the broker
    reported these figures."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    messages: int
    consumers: int
    since: datetime | None
    at: datetime

    @computed_field  # type: ignore[prop-decorator]
    @property
    def has_no_consumer(self) -> bool:
        """Whether a queue that needs a consumer has none. Queues of the retry ladder need none."""
        return not self.consumers and not self.retries

    @property
    def retries(self) -> bool:
        return self.name.startswith(QUEUE_PREFIX)


class Overview(BaseModel):
    """`services` maps each service to its state and figures (its outbox, for example); `broker` is
    `ok`, or states since when its queue figures are out of date; `gateway` is the gateway's state,
    `providers` the webhooks received from each provider. `dead_letters` counts the open ones by
    queue, `failed` those of the last hour, the hour before and the last day; `retries_waiting` is
    the number of messages in the retry ladder. `journal_at` is when the newest indexed event was
    recorded, `journal_missed` the number of events that were deleted before they were indexed."""

    services: dict[str, ServiceView]
    broker: str
    gateway: str | None
    providers: list[ProviderView]
    queues: list[QueueView]
    retries_waiting: int
    dead_letters: dict[str, int]
    failed: dict[str, int]
    journal_at: datetime | None
    journal_missed: int


@overview.get("/health/detailed")
async def detailed(caller: Viewer, request: Request, session: Session) -> Overview:
    """Return the state of services, broker, gateway and queues, from their own figures."""
    return await overview_of(caller, request, session, request.headers.get("authorization", ""))


async def overview_of(
    caller: Caller, request: Request, session: AsyncSession, token: str
) -> Overview:
    """Query the other services with `token`."""
    operator_service = part_of(request, OperatorService)
    operator_service.only_operating(caller)
    services = part_of(request, Services)
    health, (gateway, providers) = await asyncio.gather(
        services.health(token), services.providers()
    )
    figures, now = await monitoring.queue_stats(session)
    queues = [QueueView.model_validate(each) for each in figures]
    seen_at = max((each.at for each in queues), default=None)
    journal_at, journal_missed = await monitoring.journal_position(session)
    return Overview(
        services=health,
        broker=_broker(seen_at, now),
        gateway=gateway,
        providers=providers,
        queues=queues,
        retries_waiting=sum(each.messages for each in queues if each.retries),
        dead_letters=await dead_letters.open_by_queue(session),
        failed=await dead_letters.failures_lately(session),
        journal_at=journal_at,
        journal_missed=journal_missed,
    )


def _broker(seen_at: datetime | None, now: datetime) -> str:
    if seen_at is not None and now - seen_at < _FRESH:
        return WELL
    since = f"since {seen_at:%Y-%m-%d %H:%M:%S} UTC" if seen_at is not None else "yet"
    return f"not looked at {since}: RabbitMQ does not answer, or operations' worker does not run"


@jobs.get("")
async def list_jobs(caller: Viewer, request: Request) -> list[dict[str, Any]]:
    """List the scheduled jobs of all services: last run, next run, duration, result."""
    operator_service = part_of(request, OperatorService)
    operator_service.only_operating(caller)
    services = part_of(request, Services)
    return await services.jobs(request.headers.get("authorization", ""))


@jobs.post("/{service}/{name}/{action}")
async def act(
    caller: Operator, request: Request, session: Session, service: str, name: str, action: str
) -> Any:
    """Run, pause, resume or cancel a scheduled job; `action` is one of these verbs."""
    operator_service = part_of(request, OperatorService)
    operator_service.only_operating(caller)
    if action not in ACTIONS:
        raise NotFound(f"the actions for a job are {', '.join(sorted(ACTIONS))}")
    services = part_of(request, Services)
    said = await services.act(service, name, action, request.headers.get("authorization", ""))
    async with session.begin():
        action_log.note(session, caller, f"job {action}", f"job/{service}/{name}", None)
    return said

"""Status of a service as its database records it, for the operators' overview."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import func, select

from common.errors import Forbidden
from common.http.auth import Caller, Viewer
from common.http.resources import Session
from common.messaging.tables import outbox
from common.resilience.circuit_store import CircuitView, not_closed


class ServiceStatus(BaseModel):
    outbox: int = Field(description="events that are committed but not yet published to the broker")
    outbox_since: datetime | None = Field(description="when the oldest of them was written, UTC")
    circuits: list[CircuitView] = Field(
        description="circuit breakers that are not closed: nothing is sent to those systems"
    )


def status_router(tenant: str, *, circuits: bool = False) -> APIRouter:
    """Return the router of `GET /v1/status`, for callers of `tenant`, which operates Paybus.

    `circuits` is whether the service stores circuit states.
    """
    router = APIRouter(prefix="/v1/status", tags=["status"])

    def check(caller: Caller) -> None:
        if caller.tenant != tenant:
            raise Forbidden("figures cover all tenants: only the operating tenant may read them")

    @router.get("")
    async def figures(caller: Viewer, session: Session) -> ServiceStatus:
        check(caller)
        waiting = await session.execute(select(func.count(), func.min(outbox.c.created_at)))
        count, since = waiting.one()
        found = await not_closed(session) if circuits else []
        return ServiceStatus(outbox=count, outbox_since=since, circuits=found)

    return router

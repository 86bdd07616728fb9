"""Integrations: what was provisioned, what failed and why, and trying it again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from common import rows
from common.api import Cursor, Limit, Page, Session, View, as_page
from common.auth import Operator, Viewer
from common.contracts.event import Event, root
from common.contracts.provisioning import OrganizationRequested
from common.errors import Busy, Conflict
from common.messaging import outbox
from provisioning import repository
from provisioning.domain import Status
from provisioning.models import Integration
from provisioning.provisioner import SOURCE, Provisioner, operation_of

router = APIRouter(prefix="/v1/integrations", tags=["provisioning"])

_RETRY_ALL_LIMIT = 10_000
_BUSY_POLL_SECONDS = 0.2


class IntegrationView(View):
    customer_id: str
    email: str | None
    name: str | None
    status: Status
    wanted: str
    actual: str
    organization_id: str | None
    error: str | None = Field(description="the last failure, whole, until the next success")
    updated_at: datetime


class AttemptView(BaseModel):
    """`outcome` is null while it runs, and for good when the process died in it."""

    model_config = ConfigDict(from_attributes=True)

    operation: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    error: str | None


class IntegrationDetail(IntegrationView):
    attempts: list[AttemptView] = Field(default_factory=list, description="the newest 50")


class Requested(BaseModel):
    requested: int = Field(description="how many integrations are tried again")
    more: bool = Field(description="whether more match; call again to go on")


class Filter(BaseModel):
    """Which integrations. `error` matches a part of the error's text."""

    model_config = ConfigDict(extra="forbid")

    status: Status | None = None
    customer_id: str | None = None
    error: str | None = Field(default=None, min_length=3)

    def query(self, tenant: str) -> Select[Integration]:
        query = rows.matching(
            Integration, tenant, {"status": self.status, "customer_id": self.customer_id}
        )
        if self.error is not None:
            query = query.where(Integration.error.contains(self.error, autoescape=True))
        return query


@router.get("")
async def list_integrations(
    caller: Viewer,
    session: Session,
    status: Status | None = None,
    customer_id: str | None = None,
    error: Annotated[str | None, Query(min_length=3, description="a part of its text")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[IntegrationView]:
    query = Filter(status=status, customer_id=customer_id, error=error).query(caller.tenant)
    found, more = await rows.page(session, query, Integration, cursor=cursor, limit=limit)
    return as_page([IntegrationView.model_validate(row) for row in found], more)


@router.get("/{id_}")
async def get_integration(caller: Viewer, session: Session, id_: str) -> IntegrationDetail:
    return await _detail(session, caller.tenant, id_)


@router.post("/retry", status_code=202)
async def retry_matching(caller: Operator, session: Session, matching: Filter) -> Requested:
    """Try every matching integration again; failed ones unless the filter says otherwise."""
    chosen = matching.model_copy(update={"status": matching.status or Status.FAILED})
    async with session.begin():
        query = chosen.query(caller.tenant)
        found = await repository.lock_some(session, query, _RETRY_ALL_LIMIT + 1)
        due = [row for row in found[:_RETRY_ALL_LIMIT] if operation_of(row) and row.email]
        for row in due:
            await _request(session, row)
    return Requested(requested=len(due), more=len(found) > _RETRY_ALL_LIMIT)


@router.post("/{id_}/retry", status_code=202, responses={200: {"model": IntegrationDetail}})
async def retry(
    caller: Operator,
    request: Request,
    response: Response,
    session: Session,
    id_: str,
    wait: Annotated[bool, Query(description="provision now and answer with the outcome")] = False,
) -> IntegrationDetail:
    """Try one integration again.

    With `wait`, a failure is answered 502 with what the back end said, and workers go on trying.
    """
    async with session.begin():
        await rows.find(session, Integration, caller.tenant, id_)
        row = await repository.lock_integration(session, id_)
        event = await _request(session, row)
    if wait:
        provisioner: Provisioner = request.app.state.provisioner
        # A worker that took the request first has the lease: its outcome is waited for.
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Busy),
            wait=wait_fixed(_BUSY_POLL_SECONDS),
            stop=stop_after_delay(2 * provisioner.timeout),
            reraise=True,
        ):
            with attempt:
                await provisioner.bring_up_to_date(id_, event)
        response.status_code = 200
    session.expire_all()
    return await _detail(session, caller.tenant, id_)


async def _request(session: AsyncSession, row: Integration) -> Event[Any]:
    """Ask the workers, in the session's transaction. Raises `Conflict` when nothing is due."""
    if operation_of(row) is None:
        raise Conflict(f"integration {row.id} is {row.status}: there is nothing to try again")
    if not row.email:
        raise Conflict(f"integration {row.id} waits for the customer's e-mail address")
    row.status = Status.PENDING
    event = root(
        id=str(uuid4()),
        source=f"{SOURCE}/api",
        type="organization.requested",
        subject=row.id,
        tenant=row.tenant,
        trust="secret",
        data=OrganizationRequested(integration_id=row.id),
    )
    await outbox.write(session, [event])
    return event


async def _detail(session: AsyncSession, tenant: str, id_: str) -> IntegrationDetail:
    row = await rows.find(session, Integration, tenant, id_)
    attempts = await repository.attempts_of(session, id_, limit=50)
    view = IntegrationDetail.model_validate(row)
    return view.model_copy(
        update={"attempts": [AttemptView.model_validate(each) for each in attempts]}
    )

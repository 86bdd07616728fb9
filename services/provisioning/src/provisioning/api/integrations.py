"""API of integrations: their state, their failures with the reasons, and retries."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Query, Response
from sqlalchemy.ext.asyncio import AsyncSession
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from common.contracts.event import Event
from common.contracts.provisioning import ReconcileOrganization
from common.db import pagination, tenant_rows
from common.errors import Busy, Conflict
from common.http.auth import Operator, Viewer
from common.http.resources import Cursor, Limit, Page, Session, as_page, provided
from common.messaging import outbox
from common.messaging.events import new_event
from provisioning import repository
from provisioning.api.responses import AttemptView, IntegrationDetail, IntegrationView, Requested
from provisioning.domain import Status
from provisioning.models import Integration
from provisioning.provisioner import SOURCE, Provisioner, operation_of
from provisioning.schemas import IntegrationFilter

router = APIRouter(prefix="/v1/integrations", tags=["provisioning"])

_RETRY_ALL_LIMIT = 1_000
_BUSY_POLL_SECONDS = 0.2


@router.get("")
async def list_integrations(
    caller: Viewer,
    session: Session,
    status: Status | None = None,
    customer_id: str | None = None,
    error: Annotated[
        str | None, Query(min_length=3, description="part of the error's text")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[IntegrationView]:
    chosen = IntegrationFilter(status=status, customer_id=customer_id, error=error)
    query = repository.matching(chosen, caller.tenant)
    found, more = await pagination.page(session, query, Integration, cursor=cursor, limit=limit)
    return as_page([IntegrationView.model_validate(row) for row in found], more)


@router.get("/{id_}")
async def get_integration(caller: Viewer, session: Session, id_: str) -> IntegrationDetail:
    return await _detail(session, caller.tenant, id_)


@router.post("/retry", status_code=202)
async def retry_matching(
    caller: Operator, session: Session, matching: IntegrationFilter
) -> Requested:
    """Retry every matching integration; by default the failed ones."""
    chosen = matching.model_copy(update={"status": matching.status or Status.FAILED})
    async with session.begin():
        query = repository.matching(chosen, caller.tenant)
        found = await repository.lock_some(session, query, _RETRY_ALL_LIMIT + 1)
        due = [row for row in found[:_RETRY_ALL_LIMIT] if operation_of(row) and row.email]
        for row in due:
            await _request(session, row)
    return Requested(requested=len(due), more=len(found) > _RETRY_ALL_LIMIT)


@router.post("/{id_}/retry", status_code=202, responses={200: {"model": IntegrationDetail}})
async def retry(
    caller: Operator,
    provisioner: Annotated[Provisioner, provided(Provisioner)],
    response: Response,
    session: Session,
    id_: str,
    wait: Annotated[bool, Query(description="provision now and return the outcome")] = False,
) -> IntegrationDetail:
    """Retry one integration.

    With `wait`, a failure returns 502 with the backend API's response; workers continue to retry.
    """
    async with session.begin():
        await tenant_rows.get_for_tenant(session, Integration, caller.tenant, id_)
        row = await repository.lock_integration(session, id_)
        event = await _request(session, row)
    if wait:
        # A worker that claimed the request first holds the lease: wait for its outcome.
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Busy),
            wait=wait_fixed(_BUSY_POLL_SECONDS),
            stop=stop_after_delay(2 * provisioner.timeout),
            reraise=True,
        ):
            with attempt:
                await provisioner.reconcile(id_, event)
        response.status_code = 200
    session.expire_all()
    return await _detail(session, caller.tenant, id_)


async def _request(session: AsyncSession, row: Integration) -> Event[Any]:
    """Enqueue a request in the session's transaction. Raises `Conflict` when nothing is due."""
    if operation_of(row) is None:
        raise Conflict(f"integration {row.id} is {row.status}: there is nothing to retry")
    if not row.email:
        raise Conflict(f"integration {row.id} waits for the customer's e-mail address")
    row.status = Status.PENDING
    event = new_event(
        id=str(uuid4()),
        source=f"{SOURCE}/api",
        type="organization.reconcile",
        subject=row.id,
        tenant=row.tenant,
        correlationid=row.correlation_id,
        trust="secret",
        data=ReconcileOrganization(integration_id=row.id),
    )
    await outbox.enqueue(session, [event])
    return event


async def _detail(session: AsyncSession, tenant: str, id_: str) -> IntegrationDetail:
    row = await tenant_rows.get_for_tenant(session, Integration, tenant, id_)
    attempts = await repository.attempts_of(session, id_, limit=50)
    view = IntegrationDetail.model_validate(row)
    return view.model_copy(
        update={"attempts": [AttemptView.model_validate(each) for each in attempts]}
    )

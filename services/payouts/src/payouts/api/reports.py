"""Endpoints of reports: days, discrepancies, the audit log, and the export."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from common.db import pagination, tenant_rows
from common.db.database import Sessions
from common.db.pagination import encode_cursor
from common.errors import Invalid
from common.http.auth import Approver, Operator, Viewer
from common.http.csv import line, prefetch
from common.http.resources import Cursor, Limit, Page, Session, SessionFactory, page
from payouts import jobs, operator_actions, repository
from payouts.api.dependencies import AccountsInUse, OperatingTenant
from payouts.api.responses import PROBLEMS, AuditDetail, AuditPage, DiscrepancyView, Metrics, Volume
from payouts.domain import State
from payouts.ledger import repository as ledger
from payouts.models import (
    AuditEntry,
    DailyReport,
    Discrepancy,
    Payout,
)
from payouts.operator_actions import actor
from payouts.reconciliation.daily_report import day_report
from payouts.schemas import ReasonBody

reports = APIRouter(prefix="/v1/reports", tags=["reports"], responses=PROBLEMS)


@reports.get("/daily")
async def daily_report(
    tenant: OperatingTenant, caller: Viewer, session: Session, day: date | None = None
) -> dict[str, Any]:
    """Return the stored report of a day; if there is none yet, the current figures, with
    `written_at` null. `day` (UTC) defaults to today."""
    body = _not_in_future(day or datetime.now(UTC).date())
    kept = await session.get(DailyReport, (caller.tenant, body))
    if kept is not None:
        report = kept.report | {"written_at": kept.written_at.isoformat()}
    else:
        found = await day_report(session, caller.tenant, body)
        report = found | {"written_at": None}
    if caller.tenant != tenant.name:
        del report["audit_head"]  # the audit log contains all tenants' actions
    return report


TimeRange = Annotated[str, Query(pattern=r"^[1-9][0-9]{0,3}[hd]$", description="such as 24h or 7d")]


@reports.get("/metrics")
async def metrics(caller: Viewer, session: Session, time_range: TimeRange = "24h") -> Metrics:
    number = int(time_range[:-1])
    span = timedelta(hours=number) if time_range.endswith("h") else timedelta(days=number)
    since = datetime.now(UTC) - span
    ordered = repository.created_since(caller.tenant, since)
    states = await repository.counts(session, ordered)
    p50, p95 = await repository.seconds_to_paid(session, ordered)
    volumes = await repository.paid_volumes(session, ordered)
    settled = sum(states.get(each, 0) for each in (State.PAID, State.FAILED, State.RETURNED))
    return Metrics(
        since=since,
        states=states,
        success_rate=states.get(State.PAID, 0) / settled if settled else None,
        seconds_to_paid_p50=p50,
        seconds_to_paid_p95=p95,
        paid=[
            Volume(currency=currency, count=count, amount=amount)
            for currency, count, amount in volumes
        ],
    )


@reports.get("/audit")
async def audit_log(
    caller: Viewer,
    session: Session,
    subject: Annotated[
        str | None,
        Query(description="`payout/<id>`, `recipient/<id>`, `credit/<id>`, `tenant/<name>`"),
    ] = None,
    actor: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> AuditPage:
    """List the tenant's actions, the newest first."""
    query = ledger.select_actions(caller.tenant, subject, actor)
    found, more = await pagination.keyset_page(
        session,
        query,
        AuditEntry.position,
        parse=(pagination.number,),
        cursor=cursor,
        limit=limit,
    )
    items = [AuditDetail.model_validate(each) for each in found]
    following = encode_cursor(str(items[-1].position)) if more else None
    return AuditPage(items=items, next_cursor=following)


@reports.get("/discrepancies")
async def list_discrepancies(
    caller: Viewer,
    session: Session,
    day: date | None = None,
    kind: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DiscrepancyView]:
    """List discrepancies between the providers' records and the ledger."""
    filters = {"day": day, "kind": kind}
    return await page(session, Discrepancy, DiscrepancyView, caller.tenant, filters, cursor, limit)


@reports.post("/discrepancies/{id_}/resolve")
async def resolve(caller: Approver, session: Session, id_: str, why: ReasonBody) -> DiscrepancyView:
    """Resolve a discrepancy. Those of kind `doubled` and `destination` are never resolved
    automatically."""
    async with session.begin():
        await tenant_rows.get_for_tenant(session, Discrepancy, caller.tenant, id_)
        row = await operator_actions.resolve(session, id_, actor(caller), why.reason)
    return DiscrepancyView.model_validate(row)


@reports.post("/reconciliation", status_code=202)
async def reconcile(
    caller: Operator, accounts: AccountsInUse, session: Session, day: date
) -> dict[str, int]:
    """Compare a day (UTC) again, at every account of the tenant."""
    _not_in_future(day)
    mine = [each for each in accounts if each.tenant == caller.tenant]
    async with session.begin():
        for each in mine:
            await jobs.enqueue_reconciliation(
                session, None, each.tenant, day, each.provider, each.name
            )
    return {"accounts": len(mine)}


@reports.get(
    "/payouts.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}}
)
async def export(caller: Viewer, sessions: SessionFactory, first: date, last: date) -> Response:
    """Export every payout created from `first` to `last` (UTC, both included), the oldest first."""
    if last < first:
        raise Invalid("last is before first")
    since = datetime.combine(first, time(), UTC)
    until = datetime.combine(last, time(), UTC) + timedelta(days=1)
    name = f"payouts-{first}-{last}.csv"
    return StreamingResponse(
        await prefetch(_csv(sessions, caller.tenant, since, until)),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


_CSV_COLUMNS = (
    "id", "created_at", "recipient", "provider", "account", "amount", "fee", "currency", "state",
    "held", "priority", "created_by", "approved_by", "due_at", "submitted_at", "paid_at",
    "attempts", "transfer_id", "batch_id", "error",
)  # fmt: skip


async def _csv(
    sessions: Sessions, tenant: str, since: datetime, until: datetime
) -> AsyncIterator[str]:
    yield line(_CSV_COLUMNS)
    query = repository.select_created(tenant, since, until)
    async for chunk in pagination.in_chunks(sessions, query, Payout.created_at, Payout.id):
        yield "".join(line([getattr(row, name) for name in _CSV_COLUMNS]) for row in chunk)


def _not_in_future(day: date) -> date:
    if day > datetime.now(UTC).date():
        raise Invalid(f"{day} is in the future (UTC)")
    return day

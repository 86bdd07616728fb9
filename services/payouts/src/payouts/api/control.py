"""Endpoints of a tenant's emergency stop and of the overall status of its payouts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter
from pydantic import AwareDatetime, Field
from sqlalchemy.ext.asyncio import AsyncSession

from common.errors import Invalid
from common.http.auth import Admin, Approver, Caller, Operator, Viewer
from common.http.resources import Session
from common.resilience.circuit_store import not_closed
from payouts import jobs, operator_actions, repository
from payouts.api.dependencies import AccountsInUse
from payouts.api.responses import PROBLEMS, AccountView, ControlView, RecoveryView, Status
from payouts.execution import planner
from payouts.ledger import repository as ledger
from payouts.models import Payout, TenantControl
from payouts.operator_actions import actor
from payouts.schemas import ReasonBody

control = APIRouter(prefix="/v1/control", tags=["control"], responses=PROBLEMS)

_SHOWN = {"limits", "approval_threshold", "rate_per_second", "max_concurrency"}


@control.get("")
async def status(caller: Viewer, accounts: AccountsInUse, session: Session) -> Status:
    tenant = caller.tenant
    control = await session.get(TenantControl, tenant)
    return Status(
        control=ControlView.model_validate(control) if control else ControlView(paused=False),
        states=await repository.counts(session, Payout.tenant == tenant),
        held=await repository.held(session, tenant),
        oldest_due_at=await repository.oldest_due_at(session, tenant),
        circuits=await not_closed(session, tenant),
        accounts=[
            AccountView(
                path=each.path, pays=each.pays, **each.client.options.model_dump(include=_SHOWN)
            )
            for each in accounts
            if each.tenant == tenant
        ],
        open_discrepancies=await ledger.open_discrepancies(session, tenant),
        unreconciled=[
            RecoveryView.model_validate(each)
            for each in await repository.recoveries(session, tenant)
        ],
    )


@control.post("/pause")
async def pause(caller: Operator, session: Session, why: ReasonBody) -> ControlView:
    """Set the emergency stop. The response arrives within seconds, when no further payout can begin
    to be sent. Calls under way complete, and statuses are still checked."""
    control = await _pause(session, caller, why, paused=True)
    await operator_actions.until_nothing_begins(session, caller.tenant)
    return control


@control.post("/resume")
async def resume(caller: Approver, session: Session, why: ReasonBody) -> ControlView:
    return await _pause(session, caller, why, paused=False)


class StatusCheckRequirement(ReasonBody):
    days: int = Field(
        default=30,
        ge=0,
        le=365,
        description="0 ends the requirement, also for accounts that are not reconciled yet",
    )
    since: AwareDatetime | None = Field(
        default=None,
        description="the moment to which the database was restored, or earlier,"
        " at most 90 days ago; null: a week ago",
    )


@control.post("/require-status-check")
async def require_status_check(
    caller: Admin, accounts: AccountsInUse, session: Session, body: StatusCheckRequirement
) -> ControlView:
    """Require status checks after a backup was restored: for `days`, each payout's status is
    checked at the provider before it is sent, even if the database has no attempt of it. Until an
    account is reconciled from the backup to now, nothing is sent from it or created there."""
    now = datetime.now(UTC)
    mine = [each for each in accounts if each.tenant == caller.tenant]
    since = min(body.since or now - _USUAL_BACKUP, now)
    if since < now - planner.FORGOTTEN:
        raise Invalid(
            f"a backup of more than {planner.FORGOTTEN.days} days ago is too old: the status "
            "checks before each payout go no further back"
        )
    since -= _BEGUN_BEFORE
    async with session.begin():
        days = jobs.forgotten_days(mine, since, now) if body.days else []
        control = await operator_actions.require_status_check_until(
            session,
            caller.tenant,
            actor(caller),
            body.reason,
            until=now + timedelta(days=body.days),
            unreconciled=days,
        )
        await jobs.enqueue_recoveries(session, None, days)
    return ControlView.model_validate(control)


_USUAL_BACKUP = timedelta(days=7)
# For payouts that were sent before the backup and answered after it.
_BEGUN_BEFORE = timedelta(hours=1)


async def _pause(
    session: AsyncSession, caller: Caller, why: ReasonBody, *, paused: bool
) -> ControlView:
    async with session.begin():
        control = await operator_actions.pause(
            session, caller.tenant, actor(caller), why.reason, paused=paused
        )
    return ControlView.model_validate(control)

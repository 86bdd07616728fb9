"""The API: recipients, payouts and batches are ordered, seen and acted upon; all of the caller's
tenant. Who may do what is in docs/payouts.md."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, Field
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from common.db import tenant_rows
from common.errors import Invalid
from common.http.auth import Admin, Approver, Caller, Operator, Viewer
from common.http.resources import Cursor, IdempotencyKey, Limit, Page, Session, page
from common.resilience.circuit_store import not_closed
from payouts import jobs, operator_actions, repository
from payouts.api.responses import (
    PROBLEMS,
    AccountView,
    AttemptView,
    AuditView,
    BalanceView,
    BatchDetail,
    BatchView,
    ControlView,
    LedgerEntryView,
    Metrics,
    PayoutDetail,
    PayoutView,
    RecipientDetail,
    RecipientView,
    RecoveryView,
    Status,
    Volume,
)
from payouts.domain import State
from payouts.execution import planner
from payouts.models import (
    AuditEntry,
    Balance,
    Batch,
    Discrepancy,
    LedgerEntry,
    Payout,
    Recipient,
    TenantControl,
)
from payouts.operator_actions import actor
from payouts.payout_service import PayoutService
from payouts.providers.registry import Accounts
from payouts.schemas import Credit, NewBatch, NewPayout, NewRecipient, ReasonBody, RecipientChange

recipients = APIRouter(prefix="/api/v1/recipients", tags=["recipients"], responses=PROBLEMS)
payouts = APIRouter(prefix="/api/v1", tags=["payouts"], responses=PROBLEMS)
payout_jobs = APIRouter(prefix="/api/v1/payout-jobs", tags=["payout jobs"], responses=PROBLEMS)
ROUTERS = (recipients, payouts, payout_jobs)
# Of ten thousand payouts at once: its body may be larger than others.
BATCHES = "/api/v1/batches"


@recipients.post("", status_code=201)
async def add_recipient(
    caller: Approver, request: Request, session: Session, wanted: NewRecipient
) -> RecipientView:
    async with session.begin():
        row = await _service(request).add_recipient(session, caller.tenant, actor(caller), wanted)
    return RecipientView.model_validate(row)


@recipients.get("")
async def list_recipients(
    caller: Viewer,
    session: Session,
    reference: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[RecipientView]:
    filters = {"reference": reference}
    return await page(session, Recipient, RecipientView, caller.tenant, filters, cursor, limit)


@recipients.get("/{id_}")
async def get_recipient(caller: Viewer, session: Session, id_: str) -> RecipientDetail:
    row = await tenant_rows.get_for_tenant(session, Recipient, caller.tenant, id_)
    balances = await session.scalars(select(Balance).where(Balance.recipient_id == id_))
    newest = select(LedgerEntry).where(LedgerEntry.recipient_id == id_)
    ledger = await session.scalars(newest.order_by(LedgerEntry.id.desc()).limit(50))
    return RecipientDetail.model_validate(row).model_copy(
        update={
            "balances": [BalanceView.model_validate(each) for each in balances.all()],
            "ledger": [LedgerEntryView.model_validate(each) for each in ledger.all()],
        }
    )


@recipients.patch("/{id_}")
async def change_recipient(
    caller: Approver, request: Request, session: Session, id_: str, change: RecipientChange
) -> RecipientView:
    async with session.begin():
        row = await _service(request).change_recipient(
            session, caller.tenant, id_, actor(caller), change
        )
    return RecipientView.model_validate(row)


@recipients.post("/{id_}/credits", status_code=201)
async def credit(
    caller: Operator,
    request: Request,
    session: Session,
    id_: str,
    credit: Credit,
    idempotency_key: IdempotencyKey,
) -> BalanceView:
    """Money that the recipient has earned becomes available for payouts from the balance."""
    async with session.begin():
        await _service(request).credit(
            session, caller.tenant, id_, idempotency_key, actor(caller), credit
        )
    row = await session.get_one(Balance, (id_, credit.currency), populate_existing=True)
    return BalanceView.model_validate(row)


@payouts.post("/payouts", status_code=201)
async def order_payout(
    caller: Operator,
    request: Request,
    session: Session,
    wanted: NewPayout,
    idempotency_key: IdempotencyKey,
) -> PayoutView:
    async with session.begin():
        ordered = await _service(request).order(
            session, caller.tenant, idempotency_key, actor(caller), wanted
        )
    return PayoutView.model_validate(ordered.payouts[0])


@payouts.post("/batches", status_code=201)
async def order_batch(
    caller: Operator,
    request: Request,
    session: Session,
    wanted: NewBatch,
    idempotency_key: IdempotencyKey,
) -> BatchView:
    """All of its payouts are ordered, or none."""
    async with session.begin():
        row, _ = await _service(request).order_batch(
            session, caller.tenant, idempotency_key, actor(caller), wanted
        )
    return BatchView.model_validate(row)


@payouts.get("/batches")
async def list_batches(
    caller: Viewer, session: Session, cursor: Cursor = None, limit: Limit = 50
) -> Page[BatchView]:
    return await page(session, Batch, BatchView, caller.tenant, {}, cursor, limit)


@payouts.get("/batches/{id_}")
async def get_batch(caller: Viewer, session: Session, id_: str) -> BatchDetail:
    row = await tenant_rows.get_for_tenant(session, Batch, caller.tenant, id_)
    states = await repository.counts(session, Payout.batch_id == id_)
    return BatchDetail.model_validate(row).model_copy(update={"states": states})


_SHOWN = {"limits", "approval_threshold", "rate_per_second", "max_concurrency"}


@payout_jobs.get("/status")
async def status(caller: Viewer, request: Request, session: Session) -> Status:
    accounts: Accounts = request.app.state.accounts
    tenant = caller.tenant
    of_tenant = Payout.tenant == tenant
    control = await session.get(TenantControl, tenant)
    due = select(func.min(Payout.due_at)).where(
        of_tenant, Payout.state == State.APPROVED, ~Payout.held, Payout.due_at <= func.now()
    )
    differences = select(func.count(Discrepancy.id)).where(
        Discrepancy.tenant == tenant, Discrepancy.resolved_at.is_(None)
    )
    return Status(
        control=ControlView.model_validate(control) if control else ControlView(paused=False),
        states=await repository.counts(session, of_tenant),
        held=await session.scalar(select(func.count()).where(of_tenant, Payout.held)) or 0,
        oldest_due_at=await session.scalar(due),
        circuits=await not_closed(session, tenant),
        accounts=[
            AccountView(
                path=each.path, pays=each.pays, **each.client.options.model_dump(include=_SHOWN)
            )
            for each in accounts
            if each.tenant == tenant
        ],
        open_differences=await session.scalar(differences) or 0,
        unreconciled=[
            RecoveryView.model_validate(each)
            for each in await repository.recoveries(session, tenant)
        ],
    )


@payout_jobs.get("/jobs")
async def list_payouts(
    caller: Viewer,
    session: Session,
    state: State | None = None,
    recipient_id: str | None = None,
    batch_id: str | None = None,
    provider: str | None = None,
    currency: str | None = None,
    held: bool | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[PayoutView]:
    filters = {
        "state": state,
        "recipient_id": recipient_id,
        "batch_id": batch_id,
        "provider": provider,
        "currency": currency,
        "held": held,
    }
    return await page(session, Payout, PayoutView, caller.tenant, filters, cursor, limit)


@payout_jobs.get("/jobs/{id_}")
async def get_payout(caller: Viewer, session: Session, id_: str) -> PayoutDetail:
    return await _detail(session, caller.tenant, id_)


TimeRange = Annotated[str, Query(pattern=r"^[1-9][0-9]{0,3}[hd]$", description="such as 24h or 7d")]


@payout_jobs.get("/metrics")
async def metrics(caller: Viewer, session: Session, time_range: TimeRange = "24h") -> Metrics:
    number = int(time_range[:-1])
    span = timedelta(hours=number) if time_range.endswith("h") else timedelta(days=number)
    since = datetime.now(UTC) - span
    ordered = (Payout.tenant == caller.tenant, Payout.created_at >= since)
    states = await repository.counts(session, *ordered)
    took = func.extract("epoch", Payout.paid_at - Payout.created_at)
    times = select(
        func.percentile_cont(0.5).within_group(took), func.percentile_cont(0.95).within_group(took)
    ).where(*ordered, Payout.paid_at.is_not(None))
    p50, p95 = (await session.execute(times)).one()
    volumes = await session.execute(
        select(Payout.currency, func.count(), func.sum(Payout.amount))
        .where(*ordered, Payout.state == State.PAID)
        .group_by(Payout.currency)
        .order_by(Payout.currency)
    )
    settled = sum(states.get(each, 0) for each in (State.PAID, State.FAILED, State.RETURNED))
    return Metrics(
        since=since,
        states=states,
        success_rate=states.get(State.PAID, 0) / settled if settled else None,
        seconds_to_paid_p50=p50,
        seconds_to_paid_p95=p95,
        paid=[
            Volume(currency=currency, count=count, amount=int(amount))
            for currency, count, amount in volumes.all()
        ],
    )


@payout_jobs.post("/approve/{id_}")
async def approve(caller: Approver, session: Session, id_: str, why: ReasonBody) -> PayoutDetail:
    """By somebody else than who ordered it."""
    return await _act(session, caller, id_, operator_actions.approve, why)


@payout_jobs.post("/hold/{id_}")
async def hold(caller: Operator, session: Session, id_: str, why: ReasonBody) -> PayoutDetail:
    return await _act(session, caller, id_, operator_actions.hold, why)


@payout_jobs.post("/release/{id_}")
async def release(caller: Operator, session: Session, id_: str, why: ReasonBody) -> PayoutDetail:
    return await _act(session, caller, id_, operator_actions.release, why)


@payout_jobs.post("/cancel/{id_}")
async def cancel(caller: Operator, session: Session, id_: str, why: ReasonBody) -> PayoutDetail:
    return await _act(session, caller, id_, operator_actions.cancel, why)


@payout_jobs.post("/retry/{id_}")
async def retry(
    request: Request, caller: Operator, session: Session, id_: str, why: ReasonBody
) -> PayoutDetail:
    """Of a failed or returned one. The provider is asked before anything is sent. One that came
    back is paid with other money now: where that takes two persons, it waits for the second."""
    do = partial(operator_actions.retry, accounts=_service(request).accounts)
    return await _act(session, caller, id_, do, why)


@payout_jobs.post("/pause")
async def pause(caller: Operator, session: Session, why: ReasonBody) -> ControlView:
    """The emergency stop: once this is answered, within seconds, nothing begins to be sent. Calls
    that are under way end, and outcomes are still asked about."""
    control = await _pause(session, caller, why, paused=True)
    await operator_actions.until_nothing_begins(session, caller.tenant)
    return control


@payout_jobs.post("/resume")
async def resume(caller: Approver, session: Session, why: ReasonBody) -> ControlView:
    return await _pause(session, caller, why, paused=False)


class AskFirst(ReasonBody):
    days: int = Field(
        default=30, ge=0, le=365, description="0 ends it, also where nobody has reconciled yet"
    )
    since: AwareDatetime | None = Field(
        default=None,
        description="when the backup was made, rather too early, at most 90 days ago; null: a week",
    )


@payout_jobs.post("/ask-first")
async def ask_first(
    caller: Admin, request: Request, session: Session, wanted: AskFirst
) -> ControlView:
    """After a backup was restored: for so many days the provider is asked about every payout before
    it is sent, also when nothing says that it ever was. Before each account is reconciled from the
    backup until now, nothing is sent from it, and nothing ordered there."""
    now = datetime.now(UTC)
    accounts: Accounts = request.app.state.accounts
    mine = [each for each in accounts if each.tenant == caller.tenant]
    since = min(wanted.since or now - _USUAL_BACKUP, now)
    if since < now - planner.FORGOTTEN:
        raise Invalid(
            f"a backup of more than {planner.FORGOTTEN.days} days ago is too old: the look-ups "
            "before each payout go no further back"
        )
    since -= _BEGUN_BEFORE
    async with session.begin():
        days = jobs.forgotten_days(mine, since, now) if wanted.days else []
        control = await operator_actions.require_status_check_until(
            session,
            caller.tenant,
            actor(caller),
            wanted.reason,
            until=now + timedelta(days=wanted.days),
            unreconciled=days,
        )
        await jobs.order_recoveries(session, None, days)
    return ControlView.model_validate(control)


_USUAL_BACKUP = timedelta(days=7)
# What was sent before the backup, and answered after it.
_BEGUN_BEFORE = timedelta(hours=1)


def _service(request: Request) -> PayoutService:
    service: PayoutService = request.app.state.service
    return service


async def _act(
    session: AsyncSession, caller: Caller, id_: str, do: Any, why: ReasonBody
) -> PayoutDetail:
    async with session.begin():
        found = await tenant_rows.get_for_tenant(session, Payout, caller.tenant, id_)
        # First, as everybody locks them: an approval is of where it goes now.
        await repository.hold_recipient(session, found.recipient_id)
        row = (await repository.lock_payouts(session, [id_]))[id_]
        await session.refresh(row)
        await do(session, row, actor(caller), why.reason)
    session.expire_all()
    return await _detail(session, caller.tenant, id_)


async def _pause(
    session: AsyncSession, caller: Caller, why: ReasonBody, *, paused: bool
) -> ControlView:
    async with session.begin():
        control = await operator_actions.pause(
            session, caller.tenant, actor(caller), why.reason, paused=paused
        )
    return ControlView.model_validate(control)


async def _detail(session: AsyncSession, tenant: str, id_: str) -> PayoutDetail:
    row = await tenant_rows.get_for_tenant(session, Payout, tenant, id_)
    attempts = (await repository.attempts_of(session, [id_]))[id_]
    audit: Sequence[AuditEntry] = await repository.audit_of(session, f"payout/{id_}", 100)
    return PayoutDetail.model_validate(row, from_attributes=True).model_copy(
        update={
            "tries": [AttemptView.model_validate(each) for each in attempts],
            "audit": [AuditView.model_validate(each) for each in audit],
        }
    )

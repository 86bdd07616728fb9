"""The API: recipients, payouts and batches are ordered, seen and acted upon; all of the caller's
tenant. Who may do what is in docs/payouts.md."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from common import rows
from common.api import Cursor, Limit, Page, Session, View, page
from common.auth import Admin, Approver, Caller, Operator, Viewer
from common.errors import Invalid
from common.http import decode_cursor, encode_cursor
from payouts import acting, jobs, repository, working
from payouts.accounts import Accounts
from payouts.acting import actor
from payouts.domain import State
from payouts.ledger import Funding
from payouts.models import (
    AuditEntry,
    Balance,
    Batch,
    Circuit,
    Control,
    DayReport,
    Difference,
    LedgerEntry,
    Payout,
    Recipient,
)
from payouts.ordering import Desk
from payouts.requests import (
    Credit,
    NewBatch,
    NewPayout,
    NewRecipient,
    RecipientChange,
    Schedule,
    Why,
)
from payouts.settings import Priority

IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="of the caller's choice; the same request with the same key is done once",
    ),
]

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "it can't be done so: change it"},
    401: {"description": "no token, or one that is not valid"},
    403: {"description": "the role does not allow it, or a second person has to"},
    404: {"description": "there is no such thing"},
    409: {"description": "its state does not allow it, or the key was used for something else"},
}


class RecipientView(View):
    reference: str
    name: str
    provider: str
    account: str
    currency: str
    shown: str = Field(description="where the money goes, for people: the rest is encrypted")
    blocked: bool
    schedule: Schedule
    next_payout_at: datetime | None


class BalanceView(BaseModel):
    """Minor units. What the platform put in is the others' sum, negative."""

    model_config = ConfigDict(from_attributes=True)

    currency: str
    platform: int
    available: int
    pending: int
    paid: int
    fees: int


class LedgerEntryView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    at: datetime
    source: str
    target: str
    amount: int = Field(description="minor units")
    currency: str
    payout_id: str | None


class RecipientDetail(RecipientView):
    balances: list[BalanceView] = Field(default_factory=list)
    ledger: list[LedgerEntryView] = Field(default_factory=list, description="the newest 50")


class PayoutView(View):
    recipient_id: str
    recipient: str = Field(description="its reference")
    description: str | None
    batch_id: str | None
    provider: str
    account: str
    amount: int = Field(description="minor units, what the recipient gets")
    fee: int = Field(description="minor units")
    currency: str
    funding: Funding
    priority: Priority
    state: State
    held: bool
    created_by: str
    approved_by: str | None
    due_at: datetime
    next_at: datetime | None = Field(description="when it is looked at next; null when never")
    attempts: int
    failures: int
    transfer_id: str | None = Field(description="the provider's name of it")
    error: str | None
    submitted_at: datetime | None
    paid_at: datetime | None
    updated_at: datetime


class AttemptView(BaseModel):
    """`outcome` is null while it runs, and for good when the process died in it."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    idempotency_key: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    transfer_id: str | None
    fate: str | None = Field(description="all that the provider ever said of its transfer")
    error: str | None


class AuditView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    position: int
    at: datetime
    actor: str
    role: str
    action: str
    before: str | None
    after: str | None
    reason: str | None
    hash: str


class AuditDetail(AuditView):
    subject: str
    data: dict[str, Any] = Field(description="what the action posted and changed")


class PayoutDetail(PayoutView):
    tries: list[AttemptView] = Field(default_factory=list, description="every attempt")
    audit: list[AuditView] = Field(default_factory=list, description="the newest 100")


class BatchView(View):
    name: str
    payouts: int
    created_by: str


class BatchDetail(BatchView):
    states: dict[str, int] = Field(default_factory=dict, description="payouts by state")


class CircuitView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str
    worker: str
    state: str
    changed_at: datetime


class ControlView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    paused: bool
    ask_first_until: datetime | None = Field(
        default=None, description="until then the provider is asked before anything is sent"
    )
    by: str | None = None
    reason: str | None = None
    changed_at: datetime | None = None


class AccountView(BaseModel):
    """Limits are in minor units by currency, `per_second` of all workers, `at_once` of one."""

    path: str
    pays: bool = Field(description="false: it pays by itself, and is only compared")
    limits: dict[str, int]
    approval_above: dict[str, int]
    per_second: float
    at_once: int


class Status(BaseModel):
    control: ControlView
    states: dict[str, int] = Field(description="payouts by state")
    held: int
    oldest_due_at: datetime | None = Field(description="of those that are approved and due")
    circuits: list[CircuitView] = Field(description="that are not closed: nothing is sent there")
    accounts: list[AccountView] = Field(description="of the payout accounts file")
    open_differences: int


class Volume(BaseModel):
    currency: str
    count: int
    amount: int = Field(description="minor units")


class Metrics(BaseModel):
    """Of the payouts ordered within the time range."""

    since: datetime
    states: dict[str, int]
    success_rate: float | None = Field(description="paid of all that are settled; null if none")
    seconds_to_paid_p50: float | None
    seconds_to_paid_p95: float | None
    paid: list[Volume]


class DifferenceView(View):
    day: date
    provider: str
    account: str
    kind: str
    payout_id: str | None
    transfer_id: str | None
    ours: str | None
    theirs: str | None
    resolved_at: datetime | None


recipients = APIRouter(prefix="/api/v1/recipients", tags=["recipients"], responses=_PROBLEMS)
payouts = APIRouter(prefix="/api/v1", tags=["payouts"], responses=_PROBLEMS)
payout_jobs = APIRouter(prefix="/api/v1/payout-jobs", tags=["payout jobs"], responses=_PROBLEMS)
reports = APIRouter(prefix="/api/v1/reports", tags=["reports"], responses=_PROBLEMS)
ROUTERS = (recipients, payouts, payout_jobs, reports)


@recipients.post("", status_code=201)
async def add_recipient(
    caller: Approver, request: Request, session: Session, wanted: NewRecipient
) -> RecipientView:
    async with session.begin():
        row = await _desk(request).add_recipient(session, caller.tenant, actor(caller), wanted)
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
    row = await rows.find(session, Recipient, caller.tenant, id_)
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
        row = await _desk(request).change_recipient(
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
        await _desk(request).credit(
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
        ordered = await _desk(request).order(
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
        row, _ = await _desk(request).order_batch(
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
    row = await rows.find(session, Batch, caller.tenant, id_)
    states = await repository.counts(session, Payout.batch_id == id_)
    return BatchDetail.model_validate(row).model_copy(update={"states": states})


_SHOWN = {"limits", "approval_above", "per_second", "at_once"}


@payout_jobs.get("/status")
async def status(caller: Viewer, request: Request, session: Session) -> Status:
    accounts: Accounts = request.app.state.accounts
    tenant = caller.tenant
    of_tenant = Payout.tenant == tenant
    control = await session.get(Control, tenant)
    circuits = await session.scalars(
        select(Circuit).where(Circuit.tenant == tenant, Circuit.state != "closed")
    )
    due = select(func.min(Payout.due_at)).where(
        of_tenant, Payout.state == State.APPROVED, ~Payout.held, Payout.due_at <= func.now()
    )
    differences = select(func.count(Difference.id)).where(
        Difference.tenant == tenant, Difference.resolved_at.is_(None)
    )
    return Status(
        control=ControlView.model_validate(control) if control else ControlView(paused=False),
        states=await repository.counts(session, of_tenant),
        held=await session.scalar(select(func.count()).where(of_tenant, Payout.held)) or 0,
        oldest_due_at=await session.scalar(due),
        circuits=[CircuitView.model_validate(each) for each in circuits.all()],
        accounts=[
            AccountView(
                path=each.path, pays=each.pays, **each.client.options.model_dump(include=_SHOWN)
            )
            for each in accounts
            if each.tenant == tenant
        ],
        open_differences=await session.scalar(differences) or 0,
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
async def approve(caller: Approver, session: Session, id_: str, why: Why) -> PayoutDetail:
    """By somebody else than who ordered it."""
    return await _act(session, caller, id_, acting.approve, why)


@payout_jobs.post("/hold/{id_}")
async def hold(caller: Operator, session: Session, id_: str, why: Why) -> PayoutDetail:
    return await _act(session, caller, id_, acting.hold, why)


@payout_jobs.post("/release/{id_}")
async def release(caller: Operator, session: Session, id_: str, why: Why) -> PayoutDetail:
    return await _act(session, caller, id_, acting.release, why)


@payout_jobs.post("/cancel/{id_}")
async def cancel(caller: Operator, session: Session, id_: str, why: Why) -> PayoutDetail:
    return await _act(session, caller, id_, acting.cancel, why)


@payout_jobs.post("/retry/{id_}")
async def retry(caller: Operator, session: Session, id_: str, why: Why) -> PayoutDetail:
    """Of a failed or returned one. The provider is asked before anything is sent."""
    return await _act(session, caller, id_, acting.retry, why)


@payout_jobs.post("/pause")
async def pause(caller: Operator, session: Session, why: Why) -> ControlView:
    """The emergency stop: once this is answered nothing begins to be sent. Calls that are under way
    end, and outcomes are still asked about."""
    return await _pause(session, caller, why, paused=True)


@payout_jobs.post("/resume")
async def resume(caller: Approver, session: Session, why: Why) -> ControlView:
    return await _pause(session, caller, why, paused=False)


class AskFirst(Why):
    days: int = Field(default=30, ge=0, le=365, description="0 ends it")


@payout_jobs.post("/ask-first")
async def ask_first(caller: Admin, session: Session, wanted: AskFirst) -> ControlView:
    """After a backup was restored: for so many days the provider is asked about every payout before
    it is sent, also when nothing says that it ever was."""
    until = datetime.now(UTC) + timedelta(days=wanted.days)
    async with session.begin():
        control = await acting.ask_first(
            session, caller.tenant, actor(caller), wanted.reason, until=until
        )
    return ControlView.model_validate(control)


@reports.get("/daily")
async def daily_report(caller: Viewer, session: Session, day: date | None = None) -> dict[str, Any]:
    """As it was written; of a day that has none yet, as it would be now. The default is today
    (UTC)."""
    wanted = _not_in_future(day or datetime.now(UTC).date())
    kept = await session.get(DayReport, (caller.tenant, wanted))
    if kept is not None:
        return kept.report | {"written_at": kept.written_at.isoformat()}
    return await working.day_report(session, caller.tenant, wanted) | {"written_at": None}


class AuditPage(BaseModel):
    """`next_cursor` is null on the last page."""

    items: list[AuditDetail]
    next_cursor: str | None


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
    """Every action of the tenant, the newest first."""
    query = select(AuditEntry).where(AuditEntry.tenant == caller.tenant)
    if subject is not None:
        query = query.where(AuditEntry.subject == subject)
    if actor is not None:
        query = query.where(AuditEntry.actor == actor)
    if cursor is not None:
        (before,) = decode_cursor(cursor, 1)
        if not before.isdecimal():
            raise Invalid("the cursor is not one that this endpoint gave out")
        query = query.where(AuditEntry.position < int(before[:18]))
    found = await session.scalars(query.order_by(AuditEntry.position.desc()).limit(limit + 1))
    items = [AuditDetail.model_validate(each) for each in found.all()]
    more = encode_cursor(str(items[limit - 1].position)) if len(items) > limit else None
    return AuditPage(items=items[:limit], next_cursor=more)


@reports.get("/differences")
async def list_differences(
    caller: Viewer,
    session: Session,
    day: date | None = None,
    kind: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DifferenceView]:
    """What providers and the ledger say differently."""
    filters = {"day": day, "kind": kind}
    return await page(session, Difference, DifferenceView, caller.tenant, filters, cursor, limit)


@reports.post("/differences/{id_}/resolve")
async def resolve(caller: Approver, session: Session, id_: str, why: Why) -> DifferenceView:
    """A person has dealt with it; `doubled` ones are never resolved otherwise."""
    async with session.begin():
        await rows.find(session, Difference, caller.tenant, id_)
        row = await acting.resolve(session, id_, actor(caller), why.reason)
    return DifferenceView.model_validate(row)


@reports.post("/reconciliation", status_code=202)
async def reconcile(
    caller: Operator, request: Request, session: Session, day: date
) -> dict[str, int]:
    """Compare a day (UTC) again, at every account of the tenant."""
    _not_in_future(day)
    accounts: Accounts = request.app.state.accounts
    mine = [each for each in accounts if each.tenant == caller.tenant]
    async with session.begin():
        for each in mine:
            await jobs.order_reconciliation(
                session, None, each.tenant, day, each.provider, each.name
            )
    return {"accounts": len(mine)}


@reports.get(
    "/payouts.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}}
)
async def export(caller: Viewer, request: Request, first: date, last: date) -> Response:
    """Every payout ordered from `first` to `last` (UTC, both included), the oldest first."""
    if last < first:
        raise Invalid("last is before first")
    since = datetime.combine(first, time(), UTC)
    until = datetime.combine(last, time(), UTC) + timedelta(days=1)
    name = f"payouts-{first}-{last}.csv"
    return StreamingResponse(
        _csv(request, caller.tenant, since, until),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


_CSV_COLUMNS = (
    "id", "created_at", "recipient", "provider", "account", "amount", "fee", "currency", "state",
    "held", "priority", "created_by", "approved_by", "due_at", "submitted_at", "paid_at",
    "attempts", "transfer_id", "batch_id", "error",
)  # fmt: skip


async def _csv(
    request: Request, tenant: str, since: datetime, until: datetime
) -> AsyncIterator[str]:
    yield _line(_CSV_COLUMNS)
    query = select(Payout).where(
        Payout.tenant == tenant, Payout.created_at >= since, Payout.created_at < until
    )
    async with request.app.state.sessions() as session:
        streamed = await session.stream_scalars(query.order_by(Payout.created_at, Payout.id))
        async for chunk in streamed.partitions(500):
            yield "".join(_line([_cell(row, name) for name in _CSV_COLUMNS]) for row in chunk)


def _cell(row: Payout, name: str) -> str:
    value = getattr(row, name)
    if isinstance(value, datetime):
        return value.isoformat()
    text = "" if value is None else str(value)
    # A spreadsheet would run it.
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _not_in_future(day: date) -> date:
    if day > datetime.now(UTC).date():
        raise Invalid(f"{day} is to come (UTC)")
    return day


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


async def _act(session: AsyncSession, caller: Caller, id_: str, do: Any, why: Why) -> PayoutDetail:
    async with session.begin():
        await rows.find(session, Payout, caller.tenant, id_)
        row = (await repository.lock_payouts(session, [id_]))[id_]
        await session.refresh(row)
        await do(session, row, actor(caller), why.reason)
    session.expire_all()
    return await _detail(session, caller.tenant, id_)


async def _pause(session: AsyncSession, caller: Caller, why: Why, *, paused: bool) -> ControlView:
    async with session.begin():
        control = await acting.pause(
            session, caller.tenant, actor(caller), why.reason, paused=paused
        )
    return ControlView.model_validate(control)


async def _detail(session: AsyncSession, tenant: str, id_: str) -> PayoutDetail:
    row = await rows.find(session, Payout, tenant, id_)
    attempts = (await repository.attempts_of(session, [id_]))[id_]
    audit: Sequence[AuditEntry] = await repository.audit_of(session, f"payout/{id_}", 100)
    return PayoutDetail.model_validate(row, from_attributes=True).model_copy(
        update={
            "tries": [AttemptView.model_validate(each) for each in attempts],
            "audit": [AuditView.model_validate(each) for each in audit],
        }
    )

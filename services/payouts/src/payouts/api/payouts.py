"""Endpoints of payouts and batches. docs/guides/payouts.md lists which role may use them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter
from sqlalchemy.ext.asyncio import AsyncSession

from common.db import tenant_rows
from common.http.auth import Approver, Caller, Operator, Viewer
from common.http.resources import Cursor, IdempotencyKey, Limit, Page, Session, page
from payouts import operator_actions, repository
from payouts.api.dependencies import AccountsInUse, Service
from payouts.api.responses import (
    PROBLEMS,
    AttemptView,
    AuditView,
    BatchDetail,
    BatchView,
    PayoutDetail,
    PayoutView,
)
from payouts.domain import State
from payouts.ledger import repository as ledger
from payouts.models import AuditEntry, Batch, Payout
from payouts.operator_actions import actor
from payouts.schemas import NewBatch, NewPayout, ReasonBody

payouts = APIRouter(prefix="/v1/payouts", tags=["payouts"], responses=PROBLEMS)
batches = APIRouter(prefix="/v1/batches", tags=["batches"], responses=PROBLEMS)
# A batch has up to 10,000 payouts: its body may be larger than others.
LARGE_BODIES = (batches.prefix,)


@payouts.post("", status_code=201)
async def create_payout(
    caller: Operator,
    service: Service,
    session: Session,
    body: NewPayout,
    idempotency_key: IdempotencyKey,
) -> PayoutView:
    async with session.begin():
        ordered = await service.create(session, caller.tenant, idempotency_key, actor(caller), body)
    return PayoutView.model_validate(ordered.payouts[0])


@payouts.get("")
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


@payouts.get("/{id_}")
async def get_payout(caller: Viewer, session: Session, id_: str) -> PayoutDetail:
    return await _detail(session, caller.tenant, id_)


@payouts.post("/{id_}/approve")
async def approve(caller: Approver, session: Session, id_: str, why: ReasonBody) -> PayoutDetail:
    """Approve a scheduled payout. A second person has to: neither its creator, nor a user who
    credited what it pays, nor the last user to change its destination, unless another user created
    it since."""
    return await _act(session, caller, id_, operator_actions.approve, why)


@payouts.post("/{id_}/hold")
async def hold(caller: Operator, session: Session, id_: str, why: ReasonBody) -> PayoutDetail:
    return await _act(session, caller, id_, operator_actions.hold, why)


@payouts.post("/{id_}/release")
async def release(caller: Operator, session: Session, id_: str, why: ReasonBody) -> PayoutDetail:
    return await _act(session, caller, id_, operator_actions.release, why)


@payouts.post("/{id_}/cancel")
async def cancel(caller: Operator, session: Session, id_: str, why: ReasonBody) -> PayoutDetail:
    return await _act(session, caller, id_, operator_actions.cancel, why)


@payouts.post("/{id_}/retry")
async def retry(
    accounts: AccountsInUse, caller: Operator, session: Session, id_: str, why: ReasonBody
) -> PayoutDetail:
    """Send a failed or returned payout again, after a status check at the provider. A returned one
    is paid with other money: above the approval threshold it needs a second person's approval."""
    do = partial(operator_actions.retry, accounts=accounts)
    return await _act(session, caller, id_, do, why)


@batches.post("", status_code=201)
async def create_batch(
    caller: Operator,
    service: Service,
    session: Session,
    body: NewBatch,
    idempotency_key: IdempotencyKey,
) -> BatchView:
    """Create all payouts of the batch, or none."""
    async with session.begin():
        row, _ = await service.create_batch(
            session, caller.tenant, idempotency_key, actor(caller), body
        )
    return BatchView.model_validate(row)


@batches.get("")
async def list_batches(
    caller: Viewer, session: Session, cursor: Cursor = None, limit: Limit = 50
) -> Page[BatchView]:
    return await page(session, Batch, BatchView, caller.tenant, {}, cursor, limit)


@batches.get("/{id_}")
async def get_batch(caller: Viewer, session: Session, id_: str) -> BatchDetail:
    row = await tenant_rows.get_for_tenant(session, Batch, caller.tenant, id_)
    states = await repository.counts(session, Payout.batch_id == id_)
    return BatchDetail.model_validate(row).model_copy(update={"states": states})


async def _act(
    session: AsyncSession, caller: Caller, id_: str, do: Any, why: ReasonBody
) -> PayoutDetail:
    async with session.begin():
        found = await tenant_rows.get_for_tenant(session, Payout, caller.tenant, id_)
        # First, in the common lock order: an approval is for the current destination.
        await repository.hold_recipient(session, found.recipient_id)
        row = (await repository.lock_payouts(session, [id_]))[id_]
        await session.refresh(row)
        await do(session, row, actor(caller), why.reason)
    session.expire_all()
    return await _detail(session, caller.tenant, id_)


async def _detail(session: AsyncSession, tenant: str, id_: str) -> PayoutDetail:
    row = await tenant_rows.get_for_tenant(session, Payout, tenant, id_)
    attempts = (await repository.attempts_of(session, [id_]))[id_]
    audit: Sequence[AuditEntry] = await ledger.audit_of(session, f"payout/{id_}", 100)
    return PayoutDetail.model_validate(row, from_attributes=True).model_copy(
        update={
            "attempts": [AttemptView.model_validate(each) for each in attempts],
            "audit": [AuditView.model_validate(each) for each in audit],
        }
    )

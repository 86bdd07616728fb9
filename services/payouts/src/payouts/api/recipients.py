"""Endpoints of recipients: their details, balances and credits."""

from __future__ import annotations

from fastapi import APIRouter

from common.db import tenant_rows
from common.http.auth import Approver, Operator, Viewer
from common.http.resources import Cursor, IdempotencyKey, Limit, Page, Session, page
from payouts.api.dependencies import Recipients
from payouts.api.responses import (
    PROBLEMS,
    BalanceView,
    LedgerEntryView,
    RecipientDetail,
    RecipientView,
)
from payouts.ledger import repository as ledger
from payouts.models import Balance, Recipient
from payouts.operator_actions import actor
from payouts.schemas import Credit, NewRecipient, RecipientChange

recipients = APIRouter(prefix="/v1/recipients", tags=["recipients"], responses=PROBLEMS)


@recipients.post("", status_code=201)
async def add_recipient(
    caller: Approver, service: Recipients, session: Session, body: NewRecipient
) -> RecipientView:
    async with session.begin():
        row = await service.add(session, caller.tenant, actor(caller), body)
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
    balances = await ledger.balances_of(session, id_)
    entries = await ledger.newest_entries(session, id_, 50)
    return RecipientDetail.model_validate(row).model_copy(
        update={
            "balances": [BalanceView.model_validate(each) for each in balances],
            "ledger": [LedgerEntryView.model_validate(each) for each in entries],
        }
    )


@recipients.patch("/{id_}")
async def change_recipient(
    caller: Approver, service: Recipients, session: Session, id_: str, change: RecipientChange
) -> RecipientView:
    async with session.begin():
        row = await service.change(session, caller.tenant, id_, actor(caller), change)
    return RecipientView.model_validate(row)


@recipients.post("/{id_}/credits", status_code=201)
async def credit(
    caller: Operator,
    service: Recipients,
    session: Session,
    id_: str,
    credit: Credit,
    idempotency_key: IdempotencyKey,
) -> BalanceView:
    """Credit money that the recipient has earned: it becomes available for payouts from the
    balance."""
    async with session.begin():
        await service.credit(session, caller.tenant, id_, idempotency_key, actor(caller), credit)
    row = await session.get_one(Balance, (id_, credit.currency), populate_existing=True)
    return BalanceView.model_validate(row)

"""API of transactions and spending."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from sqlalchemy import Select
from starlette.responses import Response

from bank_sync import repository
from bank_sync.api.items import Session, Tenancy
from bank_sync.api.responses import PROBLEMS, Spent, TransactionView
from bank_sync.models import Transaction
from bank_sync.row_security import TenantSessions
from common.db import pagination, tenant_rows
from common.db.pagination import encode_cursor
from common.http.auth import Viewer
from common.http.csv import line, prefetch
from common.http.resources import Cursor, Limit, Page

transactions = APIRouter(prefix="/v1", tags=["transactions"], responses=PROBLEMS)


@transactions.get("/transactions")
async def list_transactions(
    caller: Viewer,
    session: Session,
    item: str | None = None,
    account: str | None = None,
    category: str | None = None,
    pending: bool | None = None,
    currency: str | None = None,
    first: date | None = None,
    last: date | None = None,
    at_least: Annotated[int | None, Query(description="amount, minor units")] = None,
    at_most: Annotated[int | None, Query(description="amount, minor units")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[TransactionView]:
    """List the transactions from `first` to `last`, both inclusive, newest first."""
    filters = {
        "item": item,
        "account": account,
        "category": category,
        "pending": pending,
        "currency": currency,
    }
    query = repository.select_transactions(caller.tenant, filters, first, last)
    if at_least is not None:
        query = query.where(Transaction.amount >= at_least)
    if at_most is not None:
        query = query.where(Transaction.amount <= at_most)
    found, more = await pagination.keyset_page(
        session,
        query,
        Transaction.date,
        Transaction.id,
        parse=(pagination.day, str),
        cursor=cursor,
        limit=limit,
    )
    views = [TransactionView.model_validate(each) for each in found]
    next_cursor = encode_cursor(views[-1].date.isoformat(), views[-1].id) if more else None
    return Page[TransactionView](items=views, next_cursor=next_cursor)


@transactions.get(
    "/transactions.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}}
)
async def export(
    caller: Viewer,
    tenancy: Tenancy,
    first: date,
    last: date,
    item: str | None = None,
    account: str | None = None,
    category: str | None = None,
    currency: str | None = None,
    pending: bool | None = None,
) -> Response:
    """Export all transactions from `first` to `last`, both inclusive, oldest first, as CSV."""
    filters = {
        "item": item,
        "account": account,
        "category": category,
        "currency": currency,
        "pending": pending,
    }
    query = repository.select_transactions(caller.tenant, filters, first, last)
    return StreamingResponse(
        await prefetch(_csv(tenancy, caller.tenant, query)),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="transactions-{first}-{last}.csv"'},
    )


@transactions.get("/transactions/{id_}")
async def get_transaction(caller: Viewer, session: Session, id_: str) -> TransactionView:
    found = await tenant_rows.get_for_tenant(session, Transaction, caller.tenant, id_)
    return TransactionView.model_validate(found)


@transactions.get("/spending")
async def spending(
    caller: Viewer,
    session: Session,
    first: date | None = None,
    last: date | None = None,
    item: str | None = None,
    account: str | None = None,
    currency: str | None = None,
) -> list[Spent]:
    """Return what left the accounts, by month and category, without pending transactions."""
    filters = {"item": item, "account": account, "currency": currency}
    found = await repository.spending(session, caller.tenant, filters, first, last)
    return [Spent.model_validate(each) for each in found]


_CSV_COLUMNS = (
    "id", "date", "account", "amount", "currency", "unofficial_currency", "rounded", "name",
    "merchant", "category", "category_detailed", "pending", "authorized_date", "channel", "item",
    "transaction_id",
)  # fmt: skip


async def _csv(tenancy: TenantSessions, tenant: str, query: Select[Any]) -> AsyncIterator[str]:
    yield line(_CSV_COLUMNS)
    session = partial(tenancy.session, tenant)
    async for chunk in pagination.in_chunks(session, query, Transaction.date, Transaction.id):
        yield "".join(line([getattr(row, name) for name in _CSV_COLUMNS]) for row in chunk)

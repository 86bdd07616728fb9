"""API of items: link, read, sync and remove, for the caller's tenant. Every query is scoped by
tenant, and PostgreSQL hides other tenants' rows even from one that is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import repository
from bank_sync.api.responses import (
    PROBLEMS,
    AccountView,
    Balances,
    HourView,
    InstitutionView,
    ItemView,
    LinkTokenView,
    SyncView,
)
from bank_sync.domain import Health
from bank_sync.item_service import ItemService
from bank_sync.models import Account, Institution, Item, Sync
from bank_sync.row_security import TenantSessions
from bank_sync.schemas import NewItem, NewLinkToken, UpdateLinkToken
from common.db import tenant_rows
from common.errors import Conflict, NotFound
from common.http.auth import Caller, Operator, Viewer
from common.http.resources import Cursor, Limit, Page, page, provided

items = APIRouter(prefix="/v1", tags=["items"], responses=PROBLEMS)
accounts = APIRouter(prefix="/v1", tags=["accounts"], responses=PROBLEMS)
syncs = APIRouter(prefix="/v1", tags=["syncs"], responses=PROBLEMS)
institutions = APIRouter(prefix="/v1", tags=["institutions"], responses=PROBLEMS)
SyncStatus = Literal["queued", "running", "done", "failed", "cancelled"]

ROUTERS = (items, accounts, syncs, institutions)


Service = Annotated[ItemService, provided(ItemService)]
Tenancy = Annotated[TenantSessions, provided(TenantSessions)]


async def _session(caller: Viewer, tenancy: Tenancy) -> AsyncIterator[AsyncSession]:
    async with tenancy.session(caller.tenant) as session:
        yield session


Session = Annotated[AsyncSession, Depends(_session, scope="function")]


@items.post("/link-tokens", status_code=201)
async def create_link_token(
    caller: Operator, service: Service, body: NewLinkToken
) -> LinkTokenView:
    """Create a link token for Plaid's Link in the user's browser."""
    made = await service.link_token(caller.tenant, body)
    return LinkTokenView.model_validate(made)


@items.post("/items/{id_}/link-token", status_code=201)
async def create_update_token(
    caller: Operator,
    service: Service,
    session: Session,
    id_: str,
    body: UpdateLinkToken | None = None,
) -> LinkTokenView:
    """Create a link token for Link's update mode, which repairs the item."""
    item = await _item(session, caller, id_)
    made = await service.update_token(item, body or UpdateLinkToken())
    return LinkTokenView.model_validate(made)


@items.post("/items", status_code=201)
async def link_item(caller: Operator, service: Service, body: NewItem) -> ItemView:
    """Exchange the public token from Link and link the item. The first sync starts immediately."""
    item = await service.link(caller.tenant, body)
    return ItemView.model_validate(item)


@items.get("/items")
async def list_items(
    caller: Viewer,
    session: Session,
    user: str | None = None,
    health: Health | None = None,
    institution_id: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ItemView]:
    filters = {"user": user, "health": health, "institution_id": institution_id}
    return await page(session, Item, ItemView, caller.tenant, filters, cursor, limit)


@items.get("/items/{id_}")
async def get_item(caller: Viewer, session: Session, id_: str) -> ItemView:
    return ItemView.model_validate(
        await tenant_rows.get_for_tenant(session, Item, caller.tenant, id_)
    )


@items.post("/items/{id_}/repaired", status_code=202)
async def repaired(caller: Operator, service: Service, session: Session, id_: str) -> SyncView:
    """Report that the user completed Link's update mode. The item becomes healthy and is synced."""
    item = await _item(session, caller, id_)
    sync = await service.confirm_repaired(item)
    return SyncView.model_validate(
        await tenant_rows.get_for_tenant(session, Sync, caller.tenant, sync)
    )


@items.delete(
    "/items/{id_}",
    status_code=204,
    responses={202: {"description": "the data is deleted; the removal at the provider is retried"}},
)
async def remove_item(
    caller: Operator, service: Service, session: Session, response: Response, id_: str
) -> None:
    """Delete the item's data immediately. 204 if the provider has removed the item, too; 202 if it
    could not be reached: the removal is then retried until it succeeds."""
    item = await _apart(session, caller, id_)
    if not await service.remove(item):
        response.status_code = 202


@items.post("/items/{id_}/sync", status_code=202)
async def sync_item(caller: Operator, session: Session, id_: str) -> SyncView:
    """Request a sync. If one is already queued, it is returned: it will read the same changes."""
    await _item(session, caller, id_)
    async with session.begin():
        item = await repository.lock_item(session, id_)
        if item is None or not item.readable:
            raise Conflict("the item is revoked or being removed")
        now = await tenant_rows.database_now(session)
        sync = await repository.request_sync(session, item, "asked", now)
        return SyncView.model_validate(
            await tenant_rows.get_for_tenant(session, Sync, caller.tenant, sync)
        )


@accounts.get("/items/{id_}/balances")
async def get_balances(
    caller: Viewer,
    service: Service,
    session: Session,
    id_: str,
    max_age_seconds: Annotated[float | None, Query(ge=0, le=86_400)] = None,
) -> Balances:
    """Return the bank's balances, at most `max_age_seconds` old (default:
    BANK_BALANCE_TTL_SECONDS). If the bank cannot be queried, the last known balances are returned,
    and `fresh` is false."""
    item = await _item(session, caller, id_)
    age = None if max_age_seconds is None else timedelta(seconds=max_age_seconds)
    fresh = await service.balances(item, age)
    query = tenant_rows.filtered(Account, caller.tenant, {"item": id_}).order_by(
        Account.name, Account.id
    )
    found = (await session.scalars(query)).all()
    return Balances(fresh=fresh, accounts=[AccountView.model_validate(each) for each in found])


@accounts.get("/accounts")
async def list_accounts(
    caller: Viewer,
    session: Session,
    item: str | None = None,
    type: str | None = None,
    closed: bool | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[AccountView]:
    filters = {"item": item, "type": type, "closed": closed}
    return await page(session, Account, AccountView, caller.tenant, filters, cursor, limit)


@accounts.get("/accounts/{id_}")
async def get_account(caller: Viewer, session: Session, id_: str) -> AccountView:
    return AccountView.model_validate(
        await tenant_rows.get_for_tenant(session, Account, caller.tenant, id_)
    )


@syncs.get("/syncs")
async def list_syncs(
    caller: Viewer,
    session: Session,
    item: str | None = None,
    status: SyncStatus | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[SyncView]:
    filters = {"item": item, "status": status}
    return await page(session, Sync, SyncView, caller.tenant, filters, cursor, limit)


@syncs.get("/syncs/{id_}")
async def get_sync(caller: Viewer, session: Session, id_: str) -> SyncView:
    """Return one sync, with its progress."""
    return SyncView.model_validate(
        await tenant_rows.get_for_tenant(session, Sync, caller.tenant, id_)
    )


@syncs.post("/syncs/{id_}/cancel")
async def cancel_sync(caller: Operator, session: Session, id_: str) -> SyncView:
    """Cancel a sync. A running one ends before its next page, and changes nothing."""
    await tenant_rows.get_for_tenant(session, Sync, caller.tenant, id_)
    await session.rollback()
    async with session.begin():
        sync = await repository.lock_sync(session, id_)
        if sync is None or sync.status not in {"queued", "running"}:
            raise Conflict("the sync has ended")
        now = await tenant_rows.database_now(session)
        # A running sync is ended by its worker, unless it waits for another attempt.
        held = sync.lease_until is not None and sync.lease_until > now
        if sync.status == "queued" or not held:
            sync.status, sync.finished_at = "cancelled", now
            await session.flush()
            await repository.enqueue_waiting(session, sync.tenant, sync.item, now)
        sync.cancel_requested = True
        await session.flush()
        return SyncView.model_validate(sync)


@institutions.get("/institutions")
async def list_institutions(
    caller: Viewer, session: Session, cursor: Cursor = None, limit: Limit = 50
) -> Page[InstitutionView]:
    return await page(session, Institution, InstitutionView, caller.tenant, {}, cursor, limit)


@institutions.get("/institutions/{institution_id}/health")
async def institution_health(
    caller: Viewer,
    session: Session,
    institution_id: str,
    hours: Annotated[int, Query(ge=1, le=24 * 90)] = 24,
) -> list[HourView]:
    """Return the outcomes of syncs at the institution, by the hour, newest first. `institution_id`
    is the provider's id."""
    known = {"institution_id": institution_id}
    if await session.scalar(tenant_rows.filtered(Institution, caller.tenant, known)) is None:
        raise NotFound(f"no institution has the provider's id {institution_id!r}")
    since = datetime.now(UTC) - timedelta(hours=hours)
    found = await repository.institution_hours(session, caller.tenant, institution_id, since)
    return [HourView.model_validate(each) for each in found]


async def _apart(session: AsyncSession, caller: Caller, id_: str) -> Item:
    """Return the item, and end the session's transaction, because the provider may take long."""
    item = await tenant_rows.get_for_tenant(session, Item, caller.tenant, id_)
    session.expunge(item)
    await session.rollback()
    return item


async def _item(session: AsyncSession, caller: Caller, id_: str) -> Item:
    """Return an item that is not being removed; raise `Conflict` otherwise."""
    item = await _apart(session, caller, id_)
    if item.removing_at is not None:
        raise Conflict("the item is being removed")
    return item

"""Effects of providers' webhooks about items, and of the commands to the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import domain, item_health, models, repository
from bank_sync.domain import Health
from bank_sync.item_service import ItemService
from bank_sync.row_security import set_tenant
from bank_sync.sync_runner import Syncer
from common.contracts.banking import ProviderBankItem
from common.contracts.event import Event
from common.db import tenant_rows
from common.messaging.outbox import UnitOfWork
from common.messaging.transactional_consumer import Handler
from common.observability.logging import get_logger

log = get_logger(__name__)

_HEALTH: Mapping[str, Health] = {
    "provider_bank_item.repaired": Health.HEALTHY,
    "provider_bank_item.revoked": Health.REVOKED,
    "provider_bank_item.accounts_available": Health.NEW_ACCOUNTS,
}
_UPDATED = "provider_bank_item.updated"
_EXPIRING = "provider_bank_item.expiring"
_FAILED = "provider_bank_item.failed"
_ACCOUNT_REVOKED = "provider_bank_item.account_revoked"


async def prepare(session: AsyncSession, events: Sequence[Event[Any]]) -> None:
    """Lock the items of the batch, in the common lock order."""
    await set_tenant(session, None)
    ids = [models.item_id(event.tenant, event.data.item_id) for event in events]
    session.info["items"] = await repository.lock_items(session, ids)


async def on_report(work: UnitOfWork, event: Event[ProviderBankItem]) -> None:
    """Apply a webhook about an item. Webhooks received while a sync is queued share that sync."""
    report = event.data
    item = work.session.info["items"].get(models.item_id(event.tenant, report.item_id))
    if item is None or item.removing_at is not None:
        log.info("report_for_unknown_bank_item", item_id=report.item_id)
        return
    now = await tenant_rows.database_now(work.session)
    if event.type == _UPDATED:
        if item.readable:
            await repository.request_sync(work.session, item, "webhook", now)
        return
    if event.type == _ACCOUNT_REVOKED:
        if report.account_id is not None:
            await repository.delete_account(work.session, item.id, report.account_id)
            # A running sync may have read the account already, and would restore it.
            await repository.cancel_running(work.session, item.id)
            if item.readable:
                await repository.request_sync(work.session, item, "webhook", now)
        return
    health = _health(event.type, report)
    if health is None:  # an error of unknown meaning: a sync finds the cause
        if item.readable:
            await repository.request_sync(work.session, item, "webhook", now)
        return
    repaired = event.type == "provider_bank_item.repaired"
    await item_health.apply_health_report(
        work.session,
        item,
        health,
        event.time,
        report.reason or report.code,
        until=report.until,
        repaired=repaired,
    )
    if repaired and item.readable:
        await repository.request_sync(work.session, item, "webhook", now)


def _health(type_: str, report: ProviderBankItem) -> Health | None:
    if type_ == _FAILED:
        return domain.health_of_error(report.reason or "")
    if type_ == _EXPIRING:
        disconnects = report.code == "PENDING_DISCONNECT"
        return Health.PENDING_DISCONNECT if disconnects else Health.PENDING_EXPIRATION
    return _HEALTH[type_]


class Commands:
    """Commands that call the provider: run a sync, and remove an item."""

    def __init__(self, syncer: Syncer, service: ItemService) -> None:
        self._syncer = syncer
        self._service = service

    async def do(self, event: Event[Any]) -> None:
        if event.type == "bank_item.remove":
            await self._service.remove_at_provider(event.tenant, event.data.item)
        else:
            await self._syncer.run(event)

    async def give_up(self, work: UnitOfWork, event: Event[Any], error: BaseException) -> None:
        if event.type == "bank_sync.run":
            await self._syncer.give_up(work, event, error)


HANDLERS: Mapping[str, Handler] = dict.fromkeys(
    (*_HEALTH, _UPDATED, _FAILED, _EXPIRING, _ACCOUNT_REVOKED), on_report
)

"""What provider's webhooks about items do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import models, news, repository
from bank_sync.domain import Health
from bank_sync.tenancy import say
from common import rows
from common.contracts.banking import BankItemReported
from common.contracts.event import Event
from common.logs import get_logger
from common.messaging.outbox import Work
from common.messaging.transactional import Handler

log = get_logger(__name__)

_HEALTH: Mapping[str, Health] = {
    "bank_item.failed": Health.LOGIN_REQUIRED,
    "bank_item.repaired": Health.HEALTHY,
    "bank_item.revoked": Health.REVOKED,
    "bank_item.accounts_available": Health.NEW_ACCOUNTS,
}
_UPDATED = "bank_item.updated"
_EXPIRING = "bank_item.expiring"


def by_event() -> Mapping[str, Handler]:
    return dict.fromkeys((*_HEALTH, _UPDATED, _EXPIRING), on_report)


async def prepare(session: AsyncSession, events: Sequence[Event[Any]]) -> None:
    """Lock the items of the batch, in the order that everybody keeps."""
    await say(session, None)
    ids = [models.item_id(event.tenant, event.data.item_id) for event in events]
    session.info["items"] = await repository.lock_items(session, ids)


async def on_report(work: Work, event: Event[BankItemReported]) -> None:
    """Webhooks of an item that wait for the same sync cause one."""
    report = event.data
    item = work.session.info["items"].get(models.item_id(event.tenant, report.item_id))
    if item is None or item.removing_at is not None:
        log.info("of an item that is not linked here", item_id=report.item_id)
        return
    now = await rows.clock(work.session)
    if event.type == _UPDATED:
        if item.access_token:
            await repository.order_sync(work.session, item, "webhook", now)
        return
    health = _HEALTH.get(event.type) or (
        Health.PENDING_DISCONNECT
        if report.code == "PENDING_DISCONNECT"
        else Health.PENDING_EXPIRATION
    )
    repaired = event.type == "bank_item.repaired"
    await news.take(
        work.session,
        item,
        health,
        event.time,
        report.reason or report.code,
        until=report.until,
        repaired=repaired,
    )
    if repaired and item.access_token:
        await repository.order_sync(work.session, item, "webhook", now)

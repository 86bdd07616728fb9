"""What provider's webhooks about items do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import domain, models, news, repository
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
    "bank_item.repaired": Health.HEALTHY,
    "bank_item.revoked": Health.REVOKED,
    "bank_item.accounts_available": Health.NEW_ACCOUNTS,
}
_UPDATED = "bank_item.updated"
_EXPIRING = "bank_item.expiring"
_FAILED = "bank_item.failed"
_ACCOUNT_REVOKED = "bank_item.account_revoked"


def by_event() -> Mapping[str, Handler]:
    return dict.fromkeys((*_HEALTH, _UPDATED, _FAILED, _EXPIRING, _ACCOUNT_REVOKED), on_report)


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
        if item.readable:
            await repository.order_sync(work.session, item, "webhook", now)
        return
    if event.type == _ACCOUNT_REVOKED:
        if report.account_id is not None:
            await repository.delete_account(work.session, item.id, report.account_id)
        return
    health = _health(event.type, report)
    if health is None:  # something is wrong: a sync finds out what
        if item.readable:
            await repository.order_sync(work.session, item, "webhook", now)
        return
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
    if repaired and item.readable:
        await repository.order_sync(work.session, item, "webhook", now)


def _health(type_: str, report: BankItemReported) -> Health | None:
    if type_ == _FAILED:
        return domain.found(report.reason or "")
    if type_ == _EXPIRING:
        disconnects = report.code == "PENDING_DISCONNECT"
        return Health.PENDING_DISCONNECT if disconnects else Health.PENDING_EXPIRATION
    return _HEALTH[type_]

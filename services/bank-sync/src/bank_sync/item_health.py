"""Health changes of an item upon reports about it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import domain, events, repository
from bank_sync.domain import Health
from bank_sync.models import Item
from common.messaging import outbox


async def apply_health_report(
    session: AsyncSession,
    item: Item,
    news: Health,
    at: datetime,
    reason: str | None,
    *,
    until: datetime | None = None,
    repaired: bool = False,
) -> None:
    """Apply a report to a (locked) item. `at` is the time of the report: one older than the known
    health is ignored, as is a broken login that has worked since."""
    if at < item.health_at:
        return
    if news is Health.LOGIN_REQUIRED and item.read_at is not None and at < item.read_at:
        return
    if repaired:
        item.warning = item.warned_until = None
    elif news in {Health.PENDING_EXPIRATION, Health.PENDING_DISCONNECT}:
        item.warning, item.warned_until = news, until or item.warned_until
        until = item.warned_until
    item.health_at = max(at, item.health_at)
    before = Health(item.health)
    now = domain.merge_health(before, news, repaired=repaired)
    if now is before and (now is not news or until == item.health_until):
        return
    item.health = now
    item.health_reason = None if now is Health.HEALTHY else reason
    item.health_until = until
    item.version += 1
    if now is Health.REVOKED:
        # The token is retained for Link's update mode, which restores the item, and for its
        # removal.
        item.cursor, item.complete = "", False
        item.next_sync_at = None
        await repository.delete_data(session, item.id)
    await outbox.enqueue(session, [events.item_changed(item, "bank_item.health_changed")])

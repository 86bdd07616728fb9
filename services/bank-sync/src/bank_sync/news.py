"""What becomes of an item when something is told of it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from bank_sync import domain, events, repository
from bank_sync.domain import Health
from bank_sync.models import Item
from common.messaging import outbox


async def take(
    session: AsyncSession,
    item: Item,
    news: Health,
    at: datetime,
    reason: str | None,
    *,
    until: datetime | None = None,
    repaired: bool = False,
) -> None:
    """Of a (locked) item. `at` is when it was told: what is older than what is known says nothing,
    but for a revocation, after which there is nothing more to know."""
    if at < item.health_at and news is not Health.REVOKED:
        return
    item.health_at = max(at, item.health_at)
    before = Health(item.health)
    now = domain.told(before, news, repaired=repaired)
    if now is before and (now is not news or until == item.health_until):
        return
    item.health = now
    item.health_reason = None if now is Health.HEALTHY else reason
    item.health_until = until
    item.version += 1
    if now is Health.REVOKED:
        item.access_token, item.cursor, item.complete = "", "", False
        item.next_sync_at = None
        await repository.delete_data(session, item.id)
    await outbox.write(session, [events.item_changed(item, "bank_item.health_changed")])

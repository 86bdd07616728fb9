"""SQL of the gateway's worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, delete, func, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.db import tenant_rows
from common.resilience.rate_limiter import SharedRate
from webhook_gateway.domain import NOTIFICATION_POLL_INTERVAL
from webhook_gateway.models import PendingPayment, StripeEventCursor

# Columns of an existing row that a checkout does not overwrite: a notification may have created it.
_LASTING = frozenset({"id", "tenant", "provider", "endpoint", "reference", "next_poll_at"})
_OPEN = PendingPayment.published_status != "succeeded"


async def watch_payment(session: AsyncSession, values: Mapping[str, Any]) -> None:
    """Poll a payment of one of our checkouts. A notification may have created its row already."""
    row = insert(PendingPayment).values(announced=True, **values)
    known = [name for name in values if name not in _LASTING] + ["announced"]
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[PendingPayment.id],
            set_={name: getattr(row.excluded, name) for name in known}
            | {
                "poll_count": 0,
                "expires_at": func.greatest(PendingPayment.expires_at, row.excluded.expires_at),
                "next_poll_at": case(
                    (_OPEN, func.least(PendingPayment.next_poll_at, row.excluded.next_poll_at)),
                    else_=PendingPayment.next_poll_at,
                ),
            },
        )
    )


async def record_notification(
    session: AsyncSession, values: Mapping[str, Any], *, again: bool = False
) -> None:
    """Poll a payment now; after it succeeded, only if `again`. The payment may be new."""
    row = insert(PendingPayment).values(notified_at=func.now(), next_poll_at=func.now(), **values)
    changes = {**_NOTIFIED, "next_poll_at": _NO_LATER} if again else _NOTIFIED
    await session.execute(
        row.on_conflict_do_update(index_elements=[PendingPayment.id], set_=changes)
    )


async def record_notification_by_secret(
    session: AsyncSession, tenant: str, provider: str, endpoint: str, notification_reference: str
) -> bool:
    """Do the same for a notification with a secret instead of the reference; False if unknown."""
    found = await session.execute(
        update(PendingPayment)
        .where(
            PendingPayment.tenant == tenant,
            PendingPayment.provider == provider,
            PendingPayment.endpoint == endpoint,
            PendingPayment.notification_reference == notification_reference,
        )
        .values(_NOTIFIED)
        .returning(PendingPayment.id)
    )
    return bool(found.all())


_SOONEST = func.greatest(func.now(), PendingPayment.last_polled_at + NOTIFICATION_POLL_INTERVAL)
_NOT_POLLED_SINCE = PendingPayment.notified_at.is_not(None) & func.coalesce(
    PendingPayment.notified_at >= PendingPayment.last_polled_at, true()
)
# An overdue poll retains its place: a notification must not move it behind other waiting ones.
_NO_LATER = func.least(PendingPayment.next_poll_at, _SOONEST)
_NOTIFIED: Mapping[str, Any] = {
    "notified_at": func.coalesce(PendingPayment.notified_at, func.now()),
    "next_poll_at": case((_OPEN, _NO_LATER), else_=PendingPayment.next_poll_at),
    "updated_at": func.now(),
}


async def claim(
    session: AsyncSession,
    provider: str,
    endpoint: str,
    *,
    tenant: str,
    rate: SharedRate,
    max_payments: int,
    lease: timedelta,
) -> Sequence[PendingPayment]:
    """Claim payments to poll now, within the endpoint's rate; announced ones first.

    No other worker polls them until the lease ends; then one does if this process died.
    """
    due = (
        (PendingPayment.provider == provider)
        & (PendingPayment.endpoint == endpoint)
        & (PendingPayment.tenant == tenant)  # an endpoint may have moved to another tenant
        & (PendingPayment.next_poll_at <= func.now())
    )
    if not await session.scalar(select(PendingPayment.id).where(due).limit(1)):
        return ()
    available = min(max_payments, await rate.available(session))
    if available <= 0:
        return ()
    now = await tenant_rows.database_now(session)
    claimed = (
        await session.scalars(
            select(PendingPayment)
            .where(due)
            .order_by(
                PendingPayment.announced.desc(),
                # Their provider has just sent a call; most others are pages that are never paid.
                _NOT_POLLED_SINCE.desc(),
                PendingPayment.next_poll_at,
            )
            .limit(available)
            .with_for_update(skip_locked=True)
        )
    ).all()
    await rate.use(session, len(claimed))
    for row in claimed:
        row.next_poll_at = now + lease
        row.poll_count += 1
        row.last_polled_at = now
    return claimed


async def lock(session: AsyncSession, id_: str) -> PendingPayment | None:
    return await session.get(PendingPayment, id_, with_for_update=True)


async def delete_stale_notifications(session: AsyncSession, age: timedelta) -> int:
    """Delete unannounced payments without an outcome, and return their number. Others stay: a late
    notification must find them, or an old success would be published again."""
    gone = await session.execute(
        delete(PendingPayment)
        .where(
            or_(PendingPayment.next_poll_at.is_(None), PendingPayment.expires_at < func.now()),
            PendingPayment.updated_at < func.now() - age,
            ~PendingPayment.announced,
            PendingPayment.published_status == "pending",
        )
        .returning(PendingPayment.id)
    )
    return len(gone.all())


async def claim_event_list(
    session: AsyncSession, path: str, interval: timedelta
) -> tuple[datetime, datetime] | None:
    """Return the time up to which the list was read, and the current time; None when it is not due
    or another worker reads it. A list that was never read starts at the current time."""
    fresh = insert(StripeEventCursor).values(path=path, read_to=func.now(), read_next_at=func.now())
    await session.execute(fresh.on_conflict_do_nothing())
    cursor = await session.get(StripeEventCursor, path, with_for_update={"skip_locked": True})
    now = await tenant_rows.database_now(session)
    if cursor is None or cursor.read_next_at > now:
        return None
    cursor.read_next_at = now + interval
    return cursor.read_to, now


async def move_event_cursor(session: AsyncSession, path: str, read_to: datetime) -> None:
    await session.execute(
        update(StripeEventCursor).where(StripeEventCursor.path == path).values(read_to=read_to)
    )


@dataclass(frozen=True)
class PendingPaymentCount:
    """The pending payments of a tenant's endpoint, and when the oldest one was created."""

    tenant: str
    provider: str
    endpoint: str
    payments: int
    oldest_at: datetime
    errors: int


async def pending(session: AsyncSession) -> Sequence[PendingPaymentCount]:
    of = (PendingPayment.tenant, PendingPayment.provider, PendingPayment.endpoint)
    counted = select(
        *of,
        func.count().label("payments"),
        func.min(PendingPayment.created_at).label("oldest_at"),
        func.count(PendingPayment.error).label("errors"),
    )
    found = await session.execute(
        counted.where(PendingPayment.next_poll_at.is_not(None), _OPEN).group_by(*of).order_by(*of)
    )
    return [PendingPaymentCount(**row) for row in found.mappings()]

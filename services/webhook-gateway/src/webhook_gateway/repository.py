"""All SQL of the gateway's worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, delete, func, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.db import tenant_rows
from webhook_gateway.domain import HINT_PAUSE
from webhook_gateway.models import AskBudget, PendingPayment, StripeEventCursor

# What a hint has written already, and what only the questions change.
_LASTING = frozenset({"id", "tenant", "provider", "endpoint", "reference", "ask_at"})
_OPEN = PendingPayment.told != "succeeded"


async def watch_payment(session: AsyncSession, values: Mapping[str, Any]) -> None:
    """A checkout of ours began. A hint may have been here before it."""
    row = insert(PendingPayment).values(announced=True, **values)
    known = [name for name in values if name not in _LASTING] + ["announced"]
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[PendingPayment.id],
            set_={name: getattr(row.excluded, name) for name in known}
            | {
                "asked": 0,
                "expires_at": func.greatest(PendingPayment.expires_at, row.excluded.expires_at),
                "ask_at": case(
                    (_OPEN, func.least(PendingPayment.ask_at, row.excluded.ask_at)),
                    else_=PendingPayment.ask_at,
                ),
            },
        )
    )


async def record_notification(
    session: AsyncSession, values: Mapping[str, Any], *, settled: bool = False
) -> None:
    """Ask now; about a payment that is settled only if `settled`. Nobody may have announced it."""
    row = insert(PendingPayment).values(hinted_at=func.now(), ask_at=func.now(), **values)
    changes = {**_HINTED, "ask_at": _NO_LATER} if settled else _HINTED
    await session.execute(
        row.on_conflict_do_update(index_elements=[PendingPayment.id], set_=changes)
    )


async def record_notification_by_secret(
    session: AsyncSession, tenant: str, provider: str, endpoint: str, hint_reference: str
) -> bool:
    """The same, when the hint has another name for the payment. False when nobody announced it."""
    found = await session.execute(
        update(PendingPayment)
        .where(
            PendingPayment.tenant == tenant,
            PendingPayment.provider == provider,
            PendingPayment.endpoint == endpoint,
            PendingPayment.hint_reference == hint_reference,
        )
        .values(_HINTED)
        .returning(PendingPayment.id)
    )
    return bool(found.all())


_SOON = func.greatest(func.now(), PendingPayment.asked_at + HINT_PAUSE)
_NOT_ASKED_SINCE = PendingPayment.hinted_at.is_not(None) & func.coalesce(
    PendingPayment.hinted_at >= PendingPayment.asked_at, true()
)
# What is overdue keeps its place: it must not go behind those that wait.
_NO_LATER = func.least(PendingPayment.ask_at, _SOON)
_HINTED: Mapping[str, Any] = {
    "hinted_at": func.coalesce(PendingPayment.hinted_at, func.now()),
    "ask_at": case((_OPEN, _NO_LATER), else_=PendingPayment.ask_at),
    "updated_at": func.now(),
}


async def claim(
    session: AsyncSession,
    provider: str,
    endpoint: str,
    *,
    tenant: str,
    rate_per_second: float,
    burst: int,
    most: int,
    lease: timedelta,
) -> Sequence[PendingPayment]:
    """Payments to ask about now, within the endpoint's budget; announced ones go first.

    Until the lease ends nobody else asks about them; whoever dies meanwhile is replaced then.
    """
    due = (
        (PendingPayment.provider == provider)
        & (PendingPayment.endpoint == endpoint)
        & (PendingPayment.tenant == tenant)  # an endpoint may have become another tenant's
        & (PendingPayment.ask_at <= func.now())
    )
    if not await session.scalar(select(PendingPayment.id).where(due).limit(1)):
        return ()
    path = f"{provider}/{endpoint}"
    fresh = insert(AskBudget).values(path=path, tokens=burst, filled_at=func.now())
    await session.execute(fresh.on_conflict_do_nothing())
    budget = await session.get(
        AskBudget, path, with_for_update={"skip_locked": True}, populate_existing=True
    )
    if budget is None:
        return ()  # another replica asks this provider right now
    now = await tenant_rows.database_now(session)
    elapsed = max(0.0, (now - budget.filled_at).total_seconds())
    budget.tokens = min(float(burst), budget.tokens + elapsed * rate_per_second)
    budget.filled_at = now
    taken = (
        await session.scalars(
            select(PendingPayment)
            .where(due)
            .order_by(
                PendingPayment.announced.desc(),
                # Whose provider has just called: most of the others are pages that nobody pays.
                _NOT_ASKED_SINCE.desc(),
                PendingPayment.ask_at,
            )
            .limit(max(0, min(most, int(budget.tokens))))
            .with_for_update(skip_locked=True)
        )
    ).all()
    budget.tokens -= len(taken)
    for row in taken:
        row.ask_at = now + lease
        row.asked += 1
        row.asked_at = now
    return taken


async def delay_polls(
    session: AsyncSession, path: str, seconds: float, rate_per_second: float
) -> None:
    """The provider asked us to wait: nothing is asked of it before that."""
    await session.execute(
        update(AskBudget).where(AskBudget.path == path).values(tokens=-seconds * rate_per_second)
    )


async def lock(session: AsyncSession, id_: str) -> PendingPayment | None:
    return await session.get(PendingPayment, id_, with_for_update=True)


async def delete_stale_notifications(session: AsyncSession, age: timedelta) -> int:
    """Remove hints that led to nothing; returns how many. What was settled stays: a hint about it
    must find it, or an old success would be told again."""
    gone = await session.execute(
        delete(PendingPayment)
        .where(
            or_(PendingPayment.ask_at.is_(None), PendingPayment.expires_at < func.now()),
            PendingPayment.updated_at < func.now() - age,
            ~PendingPayment.announced,
            PendingPayment.told == "pending",
        )
        .returning(PendingPayment.id)
    )
    return len(gone.all())


async def claim_event_list(
    session: AsyncSession, path: str, pause: timedelta
) -> tuple[datetime, datetime] | None:
    """Up to when the list was read, and the time now; None when it is not due, or somebody else's
    turn. What was never read is read from now on."""
    fresh = insert(StripeEventCursor).values(path=path, read_to=func.now(), read_next_at=func.now())
    await session.execute(fresh.on_conflict_do_nothing())
    cursor = await session.get(StripeEventCursor, path, with_for_update={"skip_locked": True})
    now = await tenant_rows.database_now(session)
    if cursor is None or cursor.read_next_at > now:
        return None
    cursor.read_next_at = now + pause
    return cursor.read_to, now


async def move_event_cursor(session: AsyncSession, path: str, read_to: datetime) -> None:
    await session.execute(
        update(StripeEventCursor).where(StripeEventCursor.path == path).values(read_to=read_to)
    )


@dataclass(frozen=True)
class PendingPaymentCount:
    """Of one tenant's endpoint: payments that are to be asked about, and since when."""

    tenant: str
    provider: str
    endpoint: str
    payments: int
    oldest_at: datetime
    errors: int


async def pending(session: AsyncSession) -> Sequence[PendingPaymentCount]:
    of = (PendingPayment.tenant, PendingPayment.provider, PendingPayment.endpoint)
    asked = select(
        *of,
        func.count().label("payments"),
        func.min(PendingPayment.created_at).label("oldest_at"),
        func.count(PendingPayment.error).label("errors"),
    )
    found = await session.execute(
        asked.where(PendingPayment.ask_at.is_not(None), _OPEN).group_by(*of).order_by(*of)
    )
    return [PendingPaymentCount(**row) for row in found.mappings()]

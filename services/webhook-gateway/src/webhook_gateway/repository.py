"""All SQL of the gateway's worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common import rows
from webhook_gateway.domain import HINT_PAUSE
from webhook_gateway.models import AskBudget, EventCursor, WatchedPayment

# What a hint has written already, and what only the questions change.
_LASTING = frozenset({"id", "tenant", "provider", "endpoint", "reference", "ask_at"})
_OPEN = WatchedPayment.told != "succeeded"


async def announce(session: AsyncSession, values: Mapping[str, Any]) -> None:
    """A checkout of ours began. A hint may have been here before it."""
    row = insert(WatchedPayment).values(announced=True, **values)
    known = [name for name in values if name not in _LASTING] + ["announced"]
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[WatchedPayment.id],
            set_={name: getattr(row.excluded, name) for name in known}
            | {
                "asked": 0,
                "expires_at": func.greatest(WatchedPayment.expires_at, row.excluded.expires_at),
                "ask_at": case(
                    (_OPEN, func.least(WatchedPayment.ask_at, row.excluded.ask_at)),
                    else_=WatchedPayment.ask_at,
                ),
            },
        )
    )


async def hint(session: AsyncSession, values: Mapping[str, Any], *, settled: bool = False) -> None:
    """Ask now; about a payment that is settled only if `settled`. Nobody may have announced it."""
    row = insert(WatchedPayment).values(hinted_at=func.now(), ask_at=func.now(), **values)
    changes = {**_HINTED, "ask_at": _SOON} if settled else _HINTED
    await session.execute(
        row.on_conflict_do_update(index_elements=[WatchedPayment.id], set_=changes)
    )


async def hint_by(
    session: AsyncSession, tenant: str, provider: str, endpoint: str, hint_reference: str
) -> bool:
    """The same, when the hint has another name for the payment. False when nobody announced it."""
    found = await session.execute(
        update(WatchedPayment)
        .where(
            WatchedPayment.tenant == tenant,
            WatchedPayment.provider == provider,
            WatchedPayment.endpoint == endpoint,
            WatchedPayment.hint_reference == hint_reference,
        )
        .values(_HINTED)
        .returning(WatchedPayment.id)
    )
    return bool(found.all())


_SOON = func.greatest(func.now(), WatchedPayment.asked_at + HINT_PAUSE)
_HINTED: Mapping[str, Any] = {
    "hinted_at": func.coalesce(WatchedPayment.hinted_at, func.now()),
    "ask_at": case((_OPEN, _SOON), else_=WatchedPayment.ask_at),
    "updated_at": func.now(),
}


async def claim(
    session: AsyncSession,
    provider: str,
    endpoint: str,
    *,
    tenant: str,
    per_second: float,
    burst: int,
    most: int,
    lease: timedelta,
) -> Sequence[WatchedPayment]:
    """Payments to ask about now, within the endpoint's budget; announced ones go first.

    Until the lease ends nobody else asks about them; whoever dies meanwhile is replaced then.
    """
    due = (
        (WatchedPayment.provider == provider)
        & (WatchedPayment.endpoint == endpoint)
        & (WatchedPayment.tenant == tenant)  # an endpoint may have become another tenant's
        & (WatchedPayment.ask_at <= func.now())
    )
    if not await session.scalar(select(WatchedPayment.id).where(due).limit(1)):
        return ()
    path = f"{provider}/{endpoint}"
    fresh = insert(AskBudget).values(path=path, tokens=burst, filled_at=func.now())
    await session.execute(fresh.on_conflict_do_nothing())
    budget = await session.get(
        AskBudget, path, with_for_update={"skip_locked": True}, populate_existing=True
    )
    if budget is None:
        return ()  # another replica asks this provider right now
    now = await rows.clock(session)
    elapsed = max(0.0, (now - budget.filled_at).total_seconds())
    budget.tokens = min(float(burst), budget.tokens + elapsed * per_second)
    budget.filled_at = now
    taken = (
        await session.scalars(
            select(WatchedPayment)
            .where(due)
            .order_by(WatchedPayment.announced.desc(), WatchedPayment.ask_at)
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


async def hold_back(session: AsyncSession, path: str, seconds: float, per_second: float) -> None:
    """The provider asked us to wait: nothing is asked of it before that."""
    await session.execute(
        update(AskBudget).where(AskBudget.path == path).values(tokens=-seconds * per_second)
    )


async def lock(session: AsyncSession, id_: str) -> WatchedPayment | None:
    return await session.get(WatchedPayment, id_, with_for_update=True)


async def forget_hints(session: AsyncSession, age: timedelta) -> int:
    """Remove hints that led to nothing; returns how many. What was settled stays: a hint about it
    must find it, or an old success would be told again."""
    gone = await session.execute(
        delete(WatchedPayment)
        .where(
            or_(WatchedPayment.ask_at.is_(None), WatchedPayment.expires_at < func.now()),
            WatchedPayment.updated_at < func.now() - age,
            ~WatchedPayment.announced,
            WatchedPayment.told == "pending",
        )
        .returning(WatchedPayment.id)
    )
    return len(gone.all())


async def claim_event_list(
    session: AsyncSession, path: str, pause: timedelta
) -> tuple[datetime, datetime] | None:
    """Up to when the list was read, and the time now; None when it is not due, or somebody else's
    turn. What was never read is read from now on."""
    fresh = insert(EventCursor).values(path=path, read_to=func.now(), read_next_at=func.now())
    await session.execute(fresh.on_conflict_do_nothing())
    cursor = await session.get(EventCursor, path, with_for_update={"skip_locked": True})
    now = await rows.clock(session)
    if cursor is None or cursor.read_next_at > now:
        return None
    cursor.read_next_at = now + pause
    return cursor.read_to, now


async def move_event_cursor(session: AsyncSession, path: str, read_to: datetime) -> None:
    await session.execute(
        update(EventCursor).where(EventCursor.path == path).values(read_to=read_to)
    )


@dataclass(frozen=True)
class Pending:
    """Of one tenant's endpoint: payments that are to be asked about, and since when."""

    tenant: str
    provider: str
    endpoint: str
    payments: int
    oldest_at: datetime
    errors: int


async def pending(session: AsyncSession) -> Sequence[Pending]:
    of = (WatchedPayment.tenant, WatchedPayment.provider, WatchedPayment.endpoint)
    asked = select(
        *of,
        func.count().label("payments"),
        func.min(WatchedPayment.created_at).label("oldest_at"),
        func.count(WatchedPayment.error).label("errors"),
    )
    found = await session.execute(
        asked.where(WatchedPayment.ask_at.is_not(None), _OPEN).group_by(*of).order_by(*of)
    )
    return [Pending(**row) for row in found.mappings()]

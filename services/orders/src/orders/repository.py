"""SQL queries of the orders service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.db import tenant_rows
from common.db.bulk import equals_any
from common.errors import NotFound
from orders.models import Line, Order, Payment, Rate, Refund, Reversal, Share, Terms
from orders.pricing.conversion import DayRates


async def terms(session: AsyncSession, tenant: str) -> Mapping[str, Any]:
    row = await session.get(Terms, tenant)
    return row.terms if row is not None else {}


async def set_terms(session: AsyncSession, tenant: str, values: Mapping[str, Any], by: str) -> None:
    row = insert(Terms).values(tenant=tenant, terms=values, changed_by=by)
    changed = {"terms": values, "changed_by": by, "changed_at": func.now()}
    await session.execute(row.on_conflict_do_update(index_elements=[Terms.tenant], set_=changed))


async def locked_order(session: AsyncSession, tenant: str, id_: str) -> Order:
    """Return the order, locked. Raise `NotFound`, also for another tenant's order."""
    found = await locked_orders(session, [id_])
    if not found or found[0].tenant != tenant:
        raise NotFound(f"no order has the id {id_!r}")
    return found[0]


async def locked_orders(session: AsyncSession, ids: Sequence[str]) -> Sequence[Order]:
    """Return the orders, locked in the order of their ids to prevent deadlocks."""
    query = (
        select(Order)
        .where(equals_any(Order.id, sorted({*ids})))
        .order_by(Order.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return (await session.scalars(query)).all()


async def shares(session: AsyncSession, order_id: str) -> Sequence[Share]:
    query = select(Share).where(Share.order_id == order_id).order_by(Share.seller)
    return (await session.scalars(query)).all()


async def lines(session: AsyncSession, order_id: str) -> Sequence[Line]:
    query = select(Line).where(Line.order_id == order_id).order_by(Line.number)
    return (await session.scalars(query)).all()


async def payments(session: AsyncSession, order_id: str) -> Sequence[Payment]:
    query = select(Payment).where(Payment.order_id == order_id)
    return (await session.scalars(query.order_by(Payment.created_at, Payment.id))).all()


async def refunds(session: AsyncSession, order_id: str) -> Sequence[Refund]:
    query = select(Refund).where(Refund.order_id == order_id)
    return (await session.scalars(query.order_by(Refund.created_at, Refund.id))).all()


async def orders_of_refunds(session: AsyncSession, ids: Sequence[str]) -> Sequence[str]:
    """Return the ids of the refunds' orders."""
    query = select(Refund.order_id).where(equals_any(Refund.id, sorted({*ids})))
    return (await session.scalars(query)).all() if ids else ()


async def save_reversal(session: AsyncSession, values: Mapping[str, Any]) -> bool:
    """Insert the reversal, or replace it by a newer report; return whether it was."""
    row = insert(Reversal).values(values)
    newer = row.on_conflict_do_update(
        index_elements=[Reversal.id],
        set_={
            name: row.excluded[name]
            for name in ("status", "amount", "reason", "reported_at", "sequence")
        },
        where=row.excluded.sequence > Reversal.sequence,
    )
    return await session.scalar(newer.returning(Reversal.id)) is not None


async def reversals(session: AsyncSession, checkout_id: str) -> Sequence[Reversal]:
    query = select(Reversal).where(Reversal.checkout_id == checkout_id)
    fresh = query.execution_options(populate_existing=True)
    return (await session.scalars(fresh)).all()


async def reversals_of_order(session: AsyncSession, order_id: str) -> Sequence[Reversal]:
    query = select(Reversal).where(Reversal.order_id == order_id)
    return (await session.scalars(query.order_by(Reversal.created_at, Reversal.id))).all()


async def locked_refunds(session: AsyncSession, ids: Sequence[str]) -> Sequence[Refund]:
    """Return the refunds, locked in the order of their ids."""
    query = (
        select(Refund)
        .where(equals_any(Refund.id, sorted({*ids})))
        .order_by(Refund.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return (await session.scalars(query)).all()


async def save_payment(session: AsyncSession, values: Mapping[str, Any]) -> Payment:
    """Insert the payment unless it exists, and return it: its report may arrive before the request
    that started it returns. The order is locked, so the session's copy of the row is current."""
    payment, _ = await tenant_rows.insert_or_get(session, Payment, values)
    return payment


async def place(session: AsyncSession, values: Mapping[str, Any]) -> tuple[Order, bool]:
    """Insert the order unless it exists; return it, and whether it is new."""
    return await tenant_rows.insert_or_get(session, Order, values)


async def shares_paid(
    session: AsyncSession, tenant: str, since: datetime, until: datetime
) -> AsyncIterator[tuple[str, Share]]:
    """Yield each share of the orders paid from `since` up to, but not including, `until`, with the
    order's currency, by seller."""
    query = (
        select(Order.currency, Share)
        .join(Share, Share.order_id == Order.id)
        .where(Order.tenant == tenant, Order.paid_at >= since, Order.paid_at < until)
        .order_by(Share.seller)
    )
    async for currency, share in await session.stream(query):
        yield currency, share


async def due_orders(session: AsyncSession, now: datetime, most: int) -> Sequence[Order]:
    """Return the due orders, locked; orders locked by another worker are skipped."""
    query = (
        select(Order)
        .where(Order.due_at <= now)
        .order_by(Order.due_at, Order.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(query)).all()


async def save_rates(session: AsyncSession, rates: DayRates) -> int:
    """Insert the rates and return how many are new; existing rates are not changed."""
    rows = [
        {"day": rates.day, "source": rates.source, "currency": currency, "rate": rate}
        for currency, rate in sorted(rates.rates.items())
    ]
    adding = insert(Rate).values(rows).on_conflict_do_nothing().returning(Rate.currency)
    return len((await session.scalars(adding)).all())


async def rates(
    session: AsyncSession, *, on: date, most_days: int, sources: Sequence[str]
) -> list[DayRates]:
    """Return the rates by day and source: the newest day first, and within a day the preferred
    source first. Days of the last month are included even if too old to use, so that an error can
    name them."""
    oldest = on - timedelta(days=max(most_days, 31))
    query = select(Rate).where(Rate.day <= on, Rate.day >= oldest)
    by_day: dict[tuple[date, str], dict[str, Any]] = {}
    for each in await session.scalars(query):
        by_day.setdefault((each.day, each.source), {})[each.currency] = each.rate
    rank = {source: index for index, source in enumerate(sources)}
    ordered = sorted(by_day, key=lambda key: (-key[0].toordinal(), rank.get(key[1], len(rank))))
    return [DayRates(day, source, by_day[day, source]) for day, source in ordered]

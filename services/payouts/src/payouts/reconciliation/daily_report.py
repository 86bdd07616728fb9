"""Daily report: payouts of the day, and current balances."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from payouts.models import AuditHead, Balance, DailyReport, Discrepancy, Payout


async def write_report(session: AsyncSession, tenant: str, day: date) -> dict[str, Any]:
    """Store the day's report, replacing an earlier one."""
    report = await day_report(session, tenant, day)
    row = insert(DailyReport).values(tenant=tenant, day=day, report=report)
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[DailyReport.tenant, DailyReport.day],
            set_={"report": report, "written_at": func.now()},
        )
    )
    return report


async def day_report(session: AsyncSession, tenant: str, day: date) -> dict[str, Any]:
    first, last = span(day)
    of_day = (Payout.tenant == tenant, Payout.updated_at >= first, Payout.updated_at < last)
    sums = await session.execute(
        select(Payout.currency, Payout.state, func.count(), func.sum(Payout.amount))
        .where(*of_day)
        .group_by(Payout.currency, Payout.state)
        .order_by(Payout.currency, Payout.state)
    )
    balances = await session.execute(
        select(
            Balance.currency,
            *(
                func.sum(column)
                for column in (
                    Balance.platform,
                    Balance.available,
                    Balance.pending,
                    Balance.paid,
                    Balance.fees,
                )
            ),
        )
        .where(Balance.tenant == tenant)
        .group_by(Balance.currency)
        .order_by(Balance.currency)
    )
    discrepancies = await session.scalar(
        select(func.count())
        .select_from(Discrepancy)
        .where(Discrepancy.tenant == tenant, Discrepancy.resolved_at.is_(None))
    )
    head = (await session.execute(select(AuditHead.position, AuditHead.hash))).one()
    return {
        "day": str(day),
        # Balances, discrepancies and the log's head are current, not those of the day's end.
        "as_of": datetime.now(UTC).isoformat(),
        "payouts": [
            {"currency": currency, "state": state, "count": count, "amount": int(amount)}
            for currency, state, count, amount in sums.all()
        ],
        "balances": [
            dict(
                zip(
                    ("platform", "available", "pending", "paid", "fees"),
                    map(int, found),
                    strict=True,
                )
            )
            | {"currency": currency}
            for currency, *found in balances.all()
        ],
        "open_discrepancies": discrepancies or 0,
        "audit_head": {"position": head.position, "hash": head.hash},
    }


def span(day: date) -> tuple[datetime, datetime]:
    """Return the start of the day (included) and its end (excluded), UTC."""
    first = datetime.combine(day, time(), UTC)
    return first, first + timedelta(days=1)

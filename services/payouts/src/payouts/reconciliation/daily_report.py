"""Daily report: payouts of the day, and current balances."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from payouts import repository
from payouts.ledger import repository as ledger


async def write_report(session: AsyncSession, tenant: str, day: date) -> dict[str, Any]:
    """Store the day's report, replacing an earlier one."""
    report = await day_report(session, tenant, day)
    await repository.save_report(session, tenant, day, report)
    return report


async def day_report(session: AsyncSession, tenant: str, day: date) -> dict[str, Any]:
    first, last = span(day)
    sums = await repository.sums_by_state(session, tenant, first, last)
    position, hash_ = await ledger.head(session)
    return {
        "day": str(day),
        # Balances, discrepancies and the log's head are current, not those of the day's end.
        "as_of": datetime.now(UTC).isoformat(),
        "payouts": [
            {"currency": currency, "state": state, "count": count, "amount": amount}
            for currency, state, count, amount in sums
        ],
        "balances": list(await ledger.sums_of_balances(session, tenant)),
        "open_discrepancies": await ledger.open_discrepancies(session, tenant),
        "audit_head": {"position": position, "hash": hash_},
    }


def span(day: date) -> tuple[datetime, datetime]:
    """Return the start of the day (included) and its end (excluded), UTC."""
    first = datetime.combine(day, time(), UTC)
    return first, first + timedelta(days=1)

"""The order of polling when an endpoint's budget is too small for all payments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import create_async_engine

from common.db import database
from common.resilience.rate_limiter import SharedRate
from conftest import MakePaybus
from webhook_gateway import repository
from webhook_gateway.models import PendingPayment, payment_id

_OVERDUE = datetime.now(UTC) - timedelta(minutes=30)


def _values(reference: str) -> dict[str, Any]:
    return {
        "id": payment_id("default", "fapshi", "default", reference),
        "tenant": "default",
        "provider": "fapshi",
        "endpoint": "default",
        "reference": reference,
        "correlation_id": reference,
        "cause_id": reference,
        "expires_at": datetime.now(UTC) + timedelta(days=1),
    }


@pytest.mark.parametrize("polled_at", [None, _OVERDUE], ids=["never polled", "polled before"])
@pytest.mark.parametrize("again", [False, True])
async def test_a_callback_puts_its_payment_before_the_backlog(
    make_paybus: MakePaybus, polled_at: datetime | None, again: bool
) -> None:
    with make_paybus() as paybus:
        engine = create_async_engine(paybus.layout.databases["webhook-gateway"])
        sessions = database.sessions_of(engine)
        async with sessions.begin() as session:
            for number in range(20):
                values = _values(f"page-{number}") | {"next_poll_at": _OVERDUE}
                await repository.watch_payment(session, values)
            await session.execute(update(PendingPayment).values(last_polled_at=polled_at))
        async with sessions.begin() as session:
            # The notification arrives when its payment is already overdue.
            await repository.record_notification(session, _values("page-17"), again=again)
        async with sessions.begin() as session:
            claimed = await repository.claim(
                session, "fapshi", "default", tenant="default",
                rate=SharedRate("poll fapshi/default", 1, burst=1),
                max_payments=1, lease=timedelta(seconds=30),
            )  # fmt: skip
            assert [row.reference for row in claimed] == ["page-17"]
        await engine.dispose()

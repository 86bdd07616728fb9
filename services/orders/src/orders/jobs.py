"""Scheduled jobs: unpaid orders, sellers' payouts, and the day's exchange rates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.exc import DBAPIError

from common.contracts.event import Event
from common.contracts.jobs import RunJob
from common.db import tenant_rows
from common.errors import Upstream, describe
from common.messaging.outbox import UnitOfWork
from common.observability.logging import get_logger
from common.scheduling.scheduler import Cron, Every, Schedule, continue_if_full
from orders import metrics, order_service, repository
from orders.domain import SOLD, UNPAID
from orders.models import Order
from orders.order_service import stored_terms
from orders.pricing.rate_feeds import RateSource
from orders.unit_of_work import OrderUnitOfWork

log = get_logger(__name__)

SERVICE: Final = "orders"
_DUE = "due-orders"
_MOST = 500
_POSTPONED = timedelta(hours=1)


class Jobs:
    def __init__(self, sources: Sequence[RateSource], *, interval: timedelta) -> None:
        self._sources = sources
        self._interval = interval

    def schedule(self) -> Sequence[Schedule]:
        return (
            Schedule(_DUE, Every(self._interval), due_orders),
            # The European Central Bank publishes at about 16:00 in its own time zone.
            Schedule("rates", Cron("30 16 * * *", "Europe/Berlin"), self.rates),
        )

    async def rates(self, work: UnitOfWork, _: Event[RunJob]) -> str:
        """Store the newest rates of every source; a failing source does not block the others."""
        results, failed = [], 0
        for source in self._sources:
            try:
                found = await source.fetch()
            except Upstream as error:
                log.warning("exchange_rates_fetch_failed", source=source.name, error=str(error))
                results.append(f"{source.name}: {error}")
                failed += 1
                continue
            for day in found:
                new = await repository.save_rates(work.session, day)
                metrics.rates_stored.labels(source.name).inc(new)
                results.append(f"{source.name}: {new} new rates of {day.day}")
        if failed and failed == len(self._sources):
            raise Upstream("; ".join(results))  # retried after a delay
        return "; ".join(results) or "no source of rates is set"


async def due_orders(work: UnitOfWork, event: Event[RunJob]) -> str:
    """Process the due orders: remind the buyer, cancel the order, or release the payouts."""
    now = await tenant_rows.database_now(work.session)
    due = await repository.due_orders(work.session, now, _MOST)
    failed = 0
    for order in due:
        id_ = order.id  # not readable from a row that was rolled back
        try:
            async with work.savepoint():
                await _look(work, event, order, now)
        except DBAPIError:
            raise
        except Exception as error:  # noqa: BLE001 - an unreadable order must not block the others
            log.error("order_job_deferred", order=id_, error=describe(error))
            failed += 1
            await work.session.refresh(order)
            order.due_at = now + _POSTPONED
    await continue_if_full(work.session, SERVICE, event, due, _MOST)
    return f"{len(due)} orders were due" + (f", {failed} failed" if failed else "")


async def _look(work: UnitOfWork, event: Event[RunJob], order: Order, now: datetime) -> None:
    changes = OrderUnitOfWork(work.session, event)
    if order.state in UNPAID and now >= order.pay_by:
        await order_service.cancel_unpaid(changes, order, now, by=None, reason="not paid in time")
    elif order.state in UNPAID:
        order.reminded_at, order.due_at = now, order.pay_by
        shares = await repository.shares(work.session, order.id)
        until = order_service.reminder_at(stored_terms(order.terms), order.pay_by)
        if until is not None:
            changes.publish(
                order, "payment_due", shares, f"pay by {order.pay_by:%Y-%m-%d %H:%M} UTC"
            )
    elif order.state in SOLD and order.released_at is None:
        await order_service.release(changes, order, now)
    else:
        order.due_at = None
    await changes.flush()

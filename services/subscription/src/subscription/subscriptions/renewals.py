"""Subscriptions that Paybus itself times: extended by payments, reminded, past due, expired; and
the grace period of those that a provider manages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy.exc import DBAPIError

from common.contracts.event import Event
from common.contracts.jobs import RunJob
from common.contracts.subscriptions import Status
from common.db import tenant_rows
from common.errors import describe
from common.messaging.outbox import UnitOfWork
from common.observability.logging import get_logger
from common.scheduling.scheduler import continue_if_full
from subscription import domain, models, repository
from subscription.domain import Change, Facts, Lifecycle, Snapshot
from subscription.models import OURS, Checkout, row_id
from subscription.schemas.checkout import stored
from subscription.subscriptions import store, terms

log = get_logger(__name__)

JOB = "renewals"
_MOST = 1000
_POSTPONED = timedelta(hours=1)


async def renew(
    work: UnitOfWork,
    cause: Event[Any],
    row: models.Subscription,
    paid: Sequence[Checkout],
    now: datetime,
) -> None:
    """Update the subscription to match its paid checkouts and the time (UTC)."""
    payments = [_payment(each) for each in paid]
    over = row.current_period_end if row.status == Status.CANCELLED else None
    if over is not None and any(each.at > over for each in payments):
        row.forfeited_until = over  # a new start: nothing was provided in between
    term = terms.term(payments, _cancellation(row), row.forfeited_until)
    if term is None:
        row.due_at = None
        return
    snapshot = Snapshot(
        at=now,
        event_id=cause.id,
        lifecycle=Lifecycle.UPDATED,
        facts=Facts(
            status=term.status_at(now),
            plan_id=row_id(models.Plan, row.tenant, OURS, _plan_of(paid[-1])),
            current_period_end=term.end,
            cancel_at_period_end=term.cancelled and now < term.end,
        ),
        recorded_at=now,
    )
    before = store.to_domain(row)
    reminders = []
    if term.expiring_at(now) and row.reminder_sent_for != term.end:
        row.reminder_sent_for = term.end
        reminders.append(Change.EXPIRING)
    row.due_at = term.next_after(now)
    after = domain.replace_snapshot(before, snapshot)
    await store.save_changes(work, cause, row, before, after, reminders)


async def run(work: UnitOfWork, event: Event[RunJob]) -> str:
    """Run the job: process subscriptions that are due, or were evaluated with another policy."""
    now = await tenant_rows.database_now(work.session)
    struck = await repository.due_subscriptions(work.session, now, _MOST)
    due = {row.id: row for row in struck}
    due |= {row.id: row for row in await repository.judged_otherwise(work.session, _MOST)}
    paid = await repository.paid_checkouts(work.session, list(due))
    failed = 0
    for id_, row in due.items():
        try:
            async with work.savepoint():
                if row.provider == OURS:
                    await renew(work, event, row, paid[id_], now)
                else:
                    await store.update_payment_standing(work, event, row)
                    await store.reassess(work, event, row)
        except DBAPIError:
            raise
        except Exception as error:  # noqa: BLE001 - an unreadable row must not block the others
            said = describe(error)
            log.error("subscription_renewal_deferred", subscription=id_, error=said)
            failed += 1
            await repository.postpone(work.session, id_, now + _POSTPONED)
    await continue_if_full(work.session, "subscription", event, due, _MOST)
    return f"{len(due)} subscriptions were due" + (f", {failed} failed" if failed else "")


def _cancellation(row: models.Subscription) -> terms.Cancellation | None:
    if row.cancel_requested_at is None:
        return None
    when: Literal["now", "period_end"] = "now" if row.cancel_when == "now" else "period_end"
    return terms.Cancellation(row.cancel_requested_at, when)


def _payment(checkout: Checkout) -> terms.Payment:
    plan = stored(checkout.terms).plan
    assert plan is not None
    assert checkout.paid_at is not None
    return terms.Payment(
        at=checkout.paid_at,
        checkout_id=checkout.id,
        interval=plan.interval,
        grace=timedelta(days=plan.grace_days),
        reminder=timedelta(days=plan.reminder_days),
    )


def _plan_of(checkout: Checkout) -> str:
    plan = stored(checkout.terms).plan
    assert plan is not None
    return plan.plan_id

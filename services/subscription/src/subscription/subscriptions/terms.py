"""The paid time of a subscription, and what follows it. Pure: no I/O, no clock.

A provider like Stripe manages subscriptions itself and reports them. Mobile money has only single
payments, so here Paybus manages the subscription: it is a function of the set of its paid checkouts
and of the time. Payments may be received in any order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from dateutil.relativedelta import relativedelta

from common.contracts.subscriptions import Status

_INTERVALS: Final = {
    "day": relativedelta(days=1),
    "week": relativedelta(weeks=1),
    "month": relativedelta(months=1),
    "year": relativedelta(years=1),
}


@dataclass(frozen=True)
class Payment:
    """A paid checkout: paid at `at` (UTC), for one `interval`."""

    at: datetime
    checkout_id: str
    interval: str
    grace: timedelta
    reminder: timedelta


@dataclass(frozen=True)
class Cancellation:
    """A cancellation, requested at `at` (UTC): no further period and, with `now`, not the rest of
    the current one either."""

    at: datetime
    when: Literal["now", "period_end"]


@dataclass(frozen=True)
class PaidTerm:
    """Paid until `end`, past due until `grace_end`, then expired; one that is `cancelled` is
    cancelled from its end on. `remind_at` is when the customer is reminded of the end, None for
    never. All UTC."""

    end: datetime
    grace_end: datetime
    remind_at: datetime | None
    cancelled: bool = False

    def status_at(self, now: datetime) -> Status:
        if now < self.end:
            return Status.ACTIVE
        if self.cancelled:
            return Status.CANCELLED
        return Status.PAST_DUE if now < self.grace_end else Status.EXPIRED

    def expiring_at(self, now: datetime) -> bool:
        return self.remind_at is not None and self.remind_at <= now < self.end

    def next_after(self, now: datetime) -> datetime | None:
        """Return when the subscription next has to be processed; None for never."""
        moments = [each for each in (self.remind_at, self.end, self.grace_end) if each is not None]
        return min((each for each in moments if each > now), default=None)


@dataclass(frozen=True)
class _ConsecutivePeriods:
    """Periods without a gap: `count` of the same interval since `anchor`."""

    anchor: datetime
    count: int
    last: Payment

    @property
    def began(self) -> datetime:
        return self.anchor + (self.count - 1) * _INTERVALS[self.last.interval]

    @property
    def end(self) -> datetime:
        return self.anchor + self.count * _INTERVALS[self.last.interval]

    def then(self, payment: Payment) -> _ConsecutivePeriods:
        if payment.interval == self.last.interval:
            continued = _ConsecutivePeriods(self.anchor, self.count + 1, payment)
        else:
            continued = _ConsecutivePeriods(self.end, 1, payment)
        # A short period may be over before the grace period it was paid in.
        if payment.at >= min(self.end + self.last.grace, continued.end):
            return _ConsecutivePeriods(payment.at, 1, payment)
        return continued


def term(
    payments: Iterable[Payment],
    cancellation: Cancellation | None = None,
    forfeited_until: datetime | None = None,
) -> PaidTerm | None:
    """Return the time that the payments cover; None for no payment.

    A payment before the end, or in the grace period after it, buys the next period; a later one
    starts a new sequence. Months are counted from their start: what began on 31 January ends on the
    last day of February, and a month later on 31 March.

    A payment after a cancellation revokes it. Payments forfeited by an immediate cancellation (all
    up to `forfeited_until`) never count again once something else was paid.
    """
    ordered = sorted(payments, key=lambda each: (each.at, each.checkout_id))
    if forfeited_until is not None:
        ordered = [each for each in ordered if each.at > forfeited_until] or ordered
    if cancellation is not None and any(each.at > cancellation.at for each in ordered):
        cancellation = None
    run: _ConsecutivePeriods | None = None
    for payment in ordered:
        run = run.then(payment) if run else _ConsecutivePeriods(payment.at, 1, payment)
    if run is None:
        return None
    if cancellation is not None:
        end = min(run.end, cancellation.at) if cancellation.when == "now" else run.end
        return PaidTerm(end, end, None, cancelled=True)
    notice = min(run.last.reminder, (run.end - run.began) / 2)
    return PaidTerm(run.end, run.end + run.last.grace, run.end - notice if notice else None)

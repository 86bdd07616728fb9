"""The polling schedule of a payment, and the effect of each result. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

FIRST_POLL: Final = timedelta(seconds=15)
# One payment is polled no more often than this, however many notifications arrive.
NOTIFICATION_POLL_INTERVAL: Final = timedelta(seconds=5)
_MAX_POLL_INTERVAL = timedelta(minutes=10)
# A payment that was under way when it expired may still succeed, so it is still polled, rarely.
LATE_PAYMENT_WINDOW: Final = timedelta(hours=24)
_LATE_POLL_INTERVAL = timedelta(hours=1)
# How long a provider may be unreachable, or an endpoint's credentials wrong.
_MAX_SILENCE = timedelta(days=7)
# For a payment that only a notification named: a genuine one is resolved by the first poll.
_MAX_UNANNOUNCED_POLLS = 6


_OVERDUE_POLL_INTERVAL = timedelta(hours=6)
# How long before its first notification a payment may have been made.
_MAX_ANNOUNCEMENT_DELAY = timedelta(days=1)


class PaymentStatus(StrEnum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    UNKNOWN = "unknown"  # to the provider


@dataclass(frozen=True)
class PollState:
    """The polling state of a payment. `announced` is whether one of our checkouts started it."""

    announced: bool
    expires_at: datetime
    poll_count: int
    published_status: PaymentStatus = PaymentStatus.PENDING


@dataclass(frozen=True)
class Step:
    """`publish` is the status to publish now, if any; `next_poll_at` the next poll, if any."""

    publish: PaymentStatus | None
    next_poll_at: datetime | None


def poll_interval(poll_count: int, *, announced: bool) -> timedelta:
    """Return the time until the next poll, which grows with each poll up to ten minutes."""
    first = FIRST_POLL if announced else timedelta(seconds=5)
    return min(_MAX_POLL_INTERVAL, first * 1.5 ** min(poll_count, 20))


def paid_at(reported: datetime | None, known_since: datetime, now: datetime) -> datetime:
    """Return when a payment was made: the provider's time if it is plausible, otherwise now. A time
    in the future comes from a wrong clock or time zone, one long before the payment was known from
    a default value."""
    if reported is None or not known_since - _MAX_ANNOUNCEMENT_DELAY <= reported <= now:
        return now
    return reported


def second_payment_check_at(watch: PollState, now: datetime) -> datetime | None:
    """Return when to check, without a notification, whether a paid payment was paid a second time:
    once, after its page has expired; now if the page expired long before the payment was known."""
    over = watch.expires_at + _LATE_POLL_INTERVAL
    if now < over:
        return over
    return now if watch.published_status is not PaymentStatus.SUCCEEDED else None


def on_result(
    watch: PollState, answer: PaymentStatus, now: datetime, *, failure_is_final: bool
) -> Step:
    """Return the step after a result.

    Success is final. A failure or an expiry is published once, and polling continues while the
    payment can still be made: a payer may open a link again.
    """
    if watch.published_status is PaymentStatus.SUCCEEDED:
        return Step(None, None)
    if answer is PaymentStatus.SUCCEEDED:
        return Step(answer, None)
    again = next_poll_at(watch, now)
    if answer is PaymentStatus.PENDING and again is None and watch.announced:
        # It may still be paid, so it is polled less often instead of being abandoned.
        again = now + _OVERDUE_POLL_INTERVAL if now < watch.expires_at + _MAX_SILENCE else None
    if answer is PaymentStatus.FAILED:
        failed = answer if watch.published_status is not answer else None
        return Step(failed, None if failure_is_final else again)
    expired = answer is PaymentStatus.EXPIRED or (watch.announced and now >= watch.expires_at)
    publish = (
        PaymentStatus.EXPIRED
        if expired and watch.published_status is PaymentStatus.PENDING
        else None
    )
    return Step(publish, None if answer is PaymentStatus.EXPIRED else again)


def on_no_result(watch: PollState, now: datetime) -> Step:
    """Return the step after a poll without a readable response.

    Such a poll proves nothing about the payment, so an announced one is polled for days before it
    counts as expired. A payment that succeeded is checked for further charges, and may have become
    known as late as that, so it is polled twice as long.
    """
    again = next_poll_at(watch, now)
    silence = (
        2 * _MAX_SILENCE if watch.published_status is PaymentStatus.SUCCEEDED else _MAX_SILENCE
    )
    if again is None and watch.announced and now < watch.expires_at + silence:
        again = now + _LATE_POLL_INTERVAL
    is_over = again is None and watch.announced and watch.published_status is PaymentStatus.PENDING
    return Step(PaymentStatus.EXPIRED if is_over else None, again)


def next_poll_at(watch: PollState, now: datetime) -> datetime | None:
    """Return the time of the next poll, regardless of the last result; None when there is none."""
    if not watch.announced and (
        watch.poll_count >= _MAX_UNANNOUNCED_POLLS or now >= watch.expires_at
    ):
        return None
    if now < watch.expires_at:
        return now + poll_interval(watch.poll_count, announced=watch.announced)
    return now + _LATE_POLL_INTERVAL if now < watch.expires_at + LATE_PAYMENT_WINDOW else None

"""When to ask a provider about a payment, and what its answers mean. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

FIRST_ASK: Final = timedelta(seconds=15)
# However many hints come, one payment is asked about no more often.
HINT_PAUSE: Final = timedelta(seconds=5)
_LONGEST_PAUSE = timedelta(minutes=10)
# What is under way when a payment expires may still succeed: it is watched, but seldom.
AFTERMATH: Final = timedelta(hours=24)
_AFTERMATH_PAUSE = timedelta(hours=1)
# How long a provider that does not answer may be away, or an endpoint's credentials wrong.
_SILENCE = timedelta(days=7)
# A hint about a payment that nobody announced: true ones are settled at the first question.
_QUESTIONS_FOR_A_HINT = 6


_LATE_PAUSE = timedelta(hours=6)
# Money may have come so long before anybody told us of the payment.
_UNHEARD = timedelta(days=1)


class PaymentStatus(StrEnum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    UNKNOWN = "unknown"  # to the provider


@dataclass(frozen=True)
class PollState:
    """A payment that is watched. `announced` is whether a checkout of ours started it."""

    announced: bool
    expires_at: datetime
    asked: int
    told: PaymentStatus = PaymentStatus.PENDING


@dataclass(frozen=True)
class Step:
    """`tell` is what others are told now, if anything; `ask_at` when to ask again, if ever."""

    tell: PaymentStatus | None
    ask_at: datetime | None


def poll_interval(asked: int, *, announced: bool) -> timedelta:
    """After so many questions: longer each time, up to ten minutes."""
    first = FIRST_ASK if announced else timedelta(seconds=5)
    return min(_LONGEST_PAUSE, first * 1.5 ** min(asked, 20))


def paid_at(said: datetime | None, known_since: datetime, now: datetime) -> datetime:
    """When a payment was made: the provider's time, where it gives one that can be right. A later
    one than now is a clock's or a time zone's; a much earlier one than the payment was heard of is
    none at all."""
    if said is None or not known_since - _UNHEARD <= said <= now:
        return now
    return said


def look_again(watch: PollState, now: datetime) -> datetime | None:
    """When to see whether what is paid was paid once more, without a hint: once, when nobody can
    pay any more; at once where that is long over and the payment was heard of only now."""
    over = watch.expires_at + _AFTERMATH_PAUSE
    if now < over:
        return over
    return now if watch.told is not PaymentStatus.SUCCEEDED else None


def on_result(
    watch: PollState, answer: PaymentStatus, now: datetime, *, failure_is_final: bool
) -> Step:
    """What follows from an answer.

    Success is final. A failure or an expiry is told once, and watched on while the payment can
    still be made: a payer may try a link again.
    """
    if watch.told is PaymentStatus.SUCCEEDED:
        return Step(None, None)
    if answer is PaymentStatus.SUCCEEDED:
        return Step(answer, None)
    again = next_poll_at(watch, now)
    if answer is PaymentStatus.PENDING and again is None and watch.announced:
        # It may still be paid, so it is checked less often, but not forgotten yet.
        again = now + _LATE_PAUSE if now < watch.expires_at + _SILENCE else None
    if answer is PaymentStatus.FAILED:
        failed = answer if watch.told is not answer else None
        return Step(failed, None if failure_is_final else again)
    expired = answer is PaymentStatus.EXPIRED or (watch.announced and now >= watch.expires_at)
    tell = PaymentStatus.EXPIRED if expired and watch.told is PaymentStatus.PENDING else None
    return Step(tell, None if answer is PaymentStatus.EXPIRED else again)


def on_no_result(watch: PollState, now: datetime) -> Step:
    """What follows from no answer, or none that can be read. It says nothing of the payment, so an
    announced one is asked about for days; only then it is called expired. Of one that succeeded
    further charges are looked for, and it may have been heard of as late as that."""
    again = next_poll_at(watch, now)
    silence = 2 * _SILENCE if watch.told is PaymentStatus.SUCCEEDED else _SILENCE
    if again is None and watch.announced and now < watch.expires_at + silence:
        again = now + _AFTERMATH_PAUSE
    over = again is None and watch.announced and watch.told is PaymentStatus.PENDING
    return Step(PaymentStatus.EXPIRED if over else None, again)


def next_poll_at(watch: PollState, now: datetime) -> datetime | None:
    """When to ask again, whatever the last answer was, or that there was none; None is never."""
    if not watch.announced and (watch.asked >= _QUESTIONS_FOR_A_HINT or now >= watch.expires_at):
        return None
    if now < watch.expires_at:
        return now + poll_interval(watch.asked, announced=watch.announced)
    return now + _AFTERMATH_PAUSE if now < watch.expires_at + AFTERMATH else None

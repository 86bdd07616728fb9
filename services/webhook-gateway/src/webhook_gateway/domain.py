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


# Money may have come so long before anybody told us of the payment.
_UNHEARD = timedelta(days=1)


class Standing(StrEnum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    UNKNOWN = "unknown"  # to the provider


@dataclass(frozen=True)
class Watch:
    """A payment that is watched. `announced` is whether a checkout of ours started it."""

    announced: bool
    expires_at: datetime
    asked: int
    told: Standing = Standing.PENDING


@dataclass(frozen=True)
class Step:
    """`tell` is what others are told now, if anything; `ask_at` when to ask again, if ever."""

    tell: Standing | None
    ask_at: datetime | None


def pause(asked: int, *, announced: bool) -> timedelta:
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


def look_again(watch: Watch, now: datetime) -> datetime | None:
    """When to see whether what is paid was paid once more, without a hint: once, when nobody can
    pay any more."""
    over = watch.expires_at + _AFTERMATH_PAUSE
    return over if now < over else None


def step(watch: Watch, answer: Standing, now: datetime, *, failure_is_final: bool) -> Step:
    """What follows from an answer.

    Success is final. A failure or an expiry is told once, and watched on while the payment can
    still be made: a payer may try a link again.
    """
    if watch.told is Standing.SUCCEEDED:
        return Step(None, None)
    if answer is Standing.SUCCEEDED:
        return Step(answer, None)
    again = next_question(watch, now)
    if answer is Standing.FAILED:
        failed = answer if watch.told is not answer else None
        return Step(failed, None if failure_is_final else again)
    expired = answer is Standing.EXPIRED or (watch.announced and now >= watch.expires_at)
    tell = Standing.EXPIRED if expired and watch.told is Standing.PENDING else None
    return Step(tell, None if answer is Standing.EXPIRED else again)


def unanswered(watch: Watch, now: datetime) -> Step:
    """What follows from no answer, or none that can be read. It says nothing of the payment, so an
    announced one is asked about for days; only then it is called expired."""
    again = next_question(watch, now)
    if again is None and watch.announced and now < watch.expires_at + _SILENCE:
        again = now + _AFTERMATH_PAUSE
    over = again is None and watch.announced and watch.told is Standing.PENDING
    return Step(Standing.EXPIRED if over else None, again)


def next_question(watch: Watch, now: datetime) -> datetime | None:
    """When to ask again, whatever the last answer was, or that there was none; None is never."""
    if not watch.announced and (watch.asked >= _QUESTIONS_FOR_A_HINT or now >= watch.expires_at):
        return None
    if now < watch.expires_at:
        return now + pause(watch.asked, announced=watch.announced)
    return now + _AFTERMATH_PAUSE if now < watch.expires_at + AFTERMATH else None

"""Schedule of the next attempt at a failed message."""

from __future__ import annotations

from dataclasses import dataclass

from common.contracts.retry_ladder import RetryDelay, RetryLadder
from common.error_policy import ErrorKind, classify
from common.errors import Busy, RateLimited


@dataclass(frozen=True)
class Retry:
    """Try again after the rung's delay, as attempt number `attempt`."""

    rung: RetryDelay
    attempt: int


@dataclass(frozen=True)
class GiveUp:
    """Dead-letter it, for this `reason`: `permanent` or `exhausted`."""

    reason: str


def plan(
    ladder: RetryLadder, *, attempt: int, attempts: int, error: BaseException
) -> Retry | GiveUp:
    """Decide about a message whose attempt number `attempt` (from 1) of `attempts` failed."""
    match classify(error):
        case ErrorKind.PERMANENT:
            return GiveUp("permanent")
        case ErrorKind.BUSY:
            assert isinstance(error, Busy)
            return Retry(ladder.at_least(error.retry_after), attempt)
        case _ if attempt >= attempts:
            return GiveUp("exhausted")
        case ErrorKind.RATE_LIMITED:
            assert isinstance(error, RateLimited)
            return Retry(ladder.at_least(error.retry_after), attempt + 1)
        case _:
            return Retry(ladder.rungs[min(attempt - 1, len(ladder.rungs) - 1)], attempt + 1)

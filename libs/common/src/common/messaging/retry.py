"""When a message that failed is tried again: the one table of errors, and the ladder of waits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy.exc
from pydantic import ValidationError

from common.contracts.event import DecodeError, Unheard
from common.contracts.topology import RETRIES
from common.errors import Busy, Permanent, RateLimited, Unavailable

QUEUE_PREFIX = "retry."
_LONGEST_RUNG_SECONDS = 24 * 3600
READ_ONLY = "25006"  # SQLSTATE read_only_sql_transaction
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


class Kind(StrEnum):
    """What an error says about trying again."""

    OUTAGE = "outage"  # our own database or broker is away: keep the message, wait, count nothing
    BUSY = "busy"  # not a failure: come back, count nothing
    RATE_LIMITED = "rate_limited"  # come back, but not before the other side said
    PERMANENT = "permanent"  # the same message can only fail again
    TRANSIENT = "transient"  # everything else: it may work next time


# The first row that fits decides. An error that no row names is transient: a bug's fix may be
# deployed before the attempts are used up, and what never succeeds ends as a dead letter.
_TABLE: tuple[tuple[type[BaseException], Kind], ...] = (
    (Unavailable, Kind.OUTAGE),
    (Busy, Kind.BUSY),
    (RateLimited, Kind.RATE_LIMITED),
    (Permanent, Kind.PERMANENT),
    (Unheard, Kind.TRANSIENT),
    (DecodeError, Kind.PERMANENT),
    (ValidationError, Kind.PERMANENT),
    (sqlalchemy.exc.DataError, Kind.PERMANENT),  # such as NUL in a text
    (sqlalchemy.exc.InterfaceError, Kind.OUTAGE),
    (sqlalchemy.exc.TimeoutError, Kind.OUTAGE),
)


def classify(error: BaseException) -> Kind:
    if isinstance(error, sqlalchemy.exc.DBAPIError) and _database_is_away(error):
        return Kind.OUTAGE
    return next((kind for cls, kind in _TABLE if isinstance(error, cls)), Kind.TRANSIENT)


def _database_is_away(error: sqlalchemy.exc.DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    # SQLSTATE (PostgreSQL, appendix A): 08 connection, 53 out of resources, 57P shutdown, 25006
    # read-only, as a standby is; and lost races that say nothing about the message: 40 deadlock or
    # serialization, 55P03 lock time-out.
    # An OperationalError without a state was raised before the server could answer.
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is None:
        return isinstance(error, sqlalchemy.exc.OperationalError)
    return state.startswith(("08", "53", "57P", READ_ONLY, "40", "55P03"))


@dataclass(frozen=True)
class Rung:
    """One `retry.<name>` queue; `seconds` is how long a message stays in it."""

    name: str
    seconds: float

    @property
    def queue(self) -> str:
        return f"{QUEUE_PREFIX}{self.name}"

    @property
    def exchange(self) -> str:
        return f"{RETRIES}.{self.name}"


class Ladder:
    """The waits between attempts, shared by all consumers. `Ladder.parse("5s,30s,2m,10m,1h")`."""

    def __init__(self, rungs: Sequence[Rung]) -> None:
        if not rungs:
            raise ValueError("a retry ladder needs at least one rung")
        self.rungs = tuple(sorted(rungs, key=lambda rung: rung.seconds))

    @classmethod
    def parse(cls, text: str) -> Ladder:
        rungs = []
        for part in text.split(","):
            match = re.fullmatch(r"(\d+)(ms|s|m|h)", part.strip())
            if match is None:
                raise ValueError(f"{part.strip()!r} is no delay such as 5s, 2m or 1h")
            seconds = int(match[1]) * _UNITS[match[2]]
            if not 0 < seconds <= _LONGEST_RUNG_SECONDS:
                raise ValueError(f"{part.strip()} is no delay between 1ms and 24h")
            rungs.append(Rung(part.strip(), seconds))
        return cls(rungs)

    def at_least(self, seconds: float) -> Rung:
        """The shortest wait that is not shorter than asked, or the longest there is."""
        return next((rung for rung in self.rungs if rung.seconds >= seconds), self.rungs[-1])


@dataclass(frozen=True)
class Retry:
    """Try again after the rung's delay, as attempt number `attempt`."""

    rung: Rung
    attempt: int


@dataclass(frozen=True)
class GiveUp:
    """Dead-letter it, for this `reason`: `permanent` or `exhausted`."""

    reason: str


def plan(ladder: Ladder, *, attempt: int, attempts: int, error: BaseException) -> Retry | GiveUp:
    """What to do with a message whose attempt number `attempt` (from 1) of `attempts` failed."""
    match classify(error):
        case Kind.PERMANENT:
            return GiveUp("permanent")
        case Kind.BUSY:
            assert isinstance(error, Busy)
            return Retry(ladder.at_least(error.retry_after), attempt)
        case _ if attempt >= attempts:
            return GiveUp("exhausted")
        case Kind.RATE_LIMITED:
            assert isinstance(error, RateLimited)
            return Retry(ladder.at_least(error.retry_after), attempt + 1)
        case _:
            return Retry(ladder.rungs[min(attempt - 1, len(ladder.rungs) - 1)], attempt + 1)

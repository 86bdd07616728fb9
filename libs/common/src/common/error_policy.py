"""What an error says about trying again: one table for consumers and HTTP APIs."""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy.exc
from pydantic import ValidationError

from common.contracts.event import DecodeError, Unheard
from common.errors import Busy, Permanent, RateLimited, Unavailable

READ_ONLY = "25006"  # SQLSTATE read_only_sql_transaction


class ErrorKind(StrEnum):
    """What an error says about trying again."""

    OUTAGE = "outage"  # our own database or broker is away: keep the message, wait, count nothing
    BUSY = "busy"  # not a failure: come back, count nothing
    RATE_LIMITED = "rate_limited"  # come back, but not before the other side said
    PERMANENT = "permanent"  # the same message can only fail again
    TRANSIENT = "transient"  # everything else: it may work next time


# The first row that fits decides. An error that no row names is transient: a bug's fix may be
# deployed before the attempts are used up, and what never succeeds ends as a dead letter.
_TABLE: tuple[tuple[type[BaseException], ErrorKind], ...] = (
    (Unavailable, ErrorKind.OUTAGE),
    (Busy, ErrorKind.BUSY),
    (RateLimited, ErrorKind.RATE_LIMITED),
    (Permanent, ErrorKind.PERMANENT),
    (Unheard, ErrorKind.TRANSIENT),
    (DecodeError, ErrorKind.PERMANENT),
    (ValidationError, ErrorKind.PERMANENT),
    (sqlalchemy.exc.DataError, ErrorKind.PERMANENT),  # such as NUL in a text
    (sqlalchemy.exc.InterfaceError, ErrorKind.OUTAGE),
    (sqlalchemy.exc.TimeoutError, ErrorKind.OUTAGE),
)


def classify(error: BaseException) -> ErrorKind:
    if isinstance(error, sqlalchemy.exc.DBAPIError) and _database_is_away(error):
        return ErrorKind.OUTAGE
    return next((kind for cls, kind in _TABLE if isinstance(error, cls)), ErrorKind.TRANSIENT)


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

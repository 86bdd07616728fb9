"""Retry classification of errors: one table for consumers and HTTP APIs."""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy.exc
from pydantic import ValidationError

from common.contracts.event import DecodeError, Unheard
from common.errors import Busy, Permanent, RateLimited, Unavailable

READ_ONLY = "25006"  # SQLSTATE read_only_sql_transaction


class ErrorKind(StrEnum):
    """Retry policy of an error."""

    OUTAGE = "outage"  # own database or broker unreachable: hold the message, use up no attempt
    BUSY = "busy"  # not a failure: retry later, no attempt used
    RATE_LIMITED = "rate_limited"  # retry, but not before the provider allows it
    PERMANENT = "permanent"  # the same message can only fail again
    TRANSIENT = "transient"  # everything else: the next attempt may succeed


# The first matching row decides. An error without a row is transient: a bug's fix may be deployed
# before the attempts are exhausted, and a permanent failure still ends as a dead letter.
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
    # SQLSTATE (PostgreSQL, appendix A): 08 connection, 53 insufficient resources, 57P shutdown,
    # 25006 read-only, as on a standby; and lost races, which do not depend on the message: 40
    # deadlock or serialization failure, 55P03 lock timeout. An OperationalError without a state was
    # raised before the server could respond.
    state: str | None = getattr(error.orig, "sqlstate", None)
    if state is None:
        return isinstance(error, sqlalchemy.exc.OperationalError)
    return state.startswith(("08", "53", "57P", READ_ONLY, "40", "55P03"))

"""The error table and the retry ladder."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy.exc
from hypothesis import given
from hypothesis import strategies as st
from tenacity import AsyncRetrying, RetryCallState

from common.contracts.event import DecodeError
from common.contracts.retry_ladder import RetryLadder
from common.error_policy import ErrorKind, classify
from common.errors import Busy, Permanent, RateLimited, Unavailable
from common.messaging.connection import LONGEST_WAIT_SECONDS, WAIT
from common.messaging.retry import GiveUp, Retry, plan

LADDER = RetryLadder.parse("5s,30s,2m,10m,1h")
attempt_numbers = st.integers(1, 50)


def database_error(cls: type[psycopg.Error]) -> sqlalchemy.exc.DBAPIError:
    return sqlalchemy.exc.DBAPIError.instance("SELECT 1", {}, cls("broken"), psycopg.Error)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("a bug, perhaps"), ErrorKind.TRANSIENT),
        (Permanent("no use"), ErrorKind.PERMANENT),
        (DecodeError("not JSON"), ErrorKind.PERMANENT),
        (RateLimited("slow down", 10), ErrorKind.RATE_LIMITED),
        (Busy("later", 5), ErrorKind.BUSY),
        (Unavailable("RabbitMQ is away"), ErrorKind.OUTAGE),
        (database_error(psycopg.OperationalError), ErrorKind.OUTAGE),
        (database_error(psycopg.errors.AdminShutdown), ErrorKind.OUTAGE),
        (database_error(psycopg.errors.TooManyConnections), ErrorKind.OUTAGE),
        (database_error(psycopg.errors.DeadlockDetected), ErrorKind.OUTAGE),
        (database_error(psycopg.errors.QueryCanceled), ErrorKind.TRANSIENT),
        (database_error(psycopg.errors.UniqueViolation), ErrorKind.TRANSIENT),
        (database_error(psycopg.DataError), ErrorKind.PERMANENT),
    ],
)
def test_the_table_classifies(error: BaseException, kind: ErrorKind) -> None:
    assert classify(error) is kind


@given(attempt=attempt_numbers, attempts=attempt_numbers)
def test_a_transient_error_is_tried_until_the_attempts_are_used_up(
    attempt: int, attempts: int
) -> None:
    decision = plan(LADDER, attempt=attempt, attempts=attempts, error=ValueError())
    if attempt >= attempts:
        assert decision == GiveUp("exhausted")
    else:
        assert isinstance(decision, Retry)
        assert decision.attempt == attempt + 1


def test_the_waits_grow_along_the_ladder_and_stay_at_its_end() -> None:
    waits = []
    for attempt in range(1, 8):
        decision = plan(LADDER, attempt=attempt, attempts=9, error=ValueError())
        assert isinstance(decision, Retry)
        waits.append(decision.rung.seconds)
    assert waits == [5, 30, 120, 600, 3600, 3600, 3600]


@given(attempt=attempt_numbers, attempts=attempt_numbers)
def test_a_permanent_error_is_never_tried_again(attempt: int, attempts: int) -> None:
    decision = plan(LADDER, attempt=attempt, attempts=attempts, error=Permanent("no"))
    assert decision == GiveUp("permanent")


@given(attempt=attempt_numbers, seconds=st.floats(0, 3600))
def test_busy_uses_up_no_attempt_and_never_gives_up(attempt: int, seconds: float) -> None:
    decision = plan(LADDER, attempt=attempt, attempts=1, error=Busy("later", seconds))
    assert isinstance(decision, Retry)
    assert decision.attempt == attempt
    assert decision.rung.seconds >= seconds


@given(seconds=st.floats(0, 3600))
def test_a_rate_limit_is_waited_out(seconds: float) -> None:
    decision = plan(LADDER, attempt=1, attempts=3, error=RateLimited("slow", seconds))
    assert isinstance(decision, Retry)
    assert decision.rung.seconds >= seconds


@given(failures=st.integers(1, 10**9))
def test_the_pause_between_connections_is_bounded_however_long_it_takes(failures: int) -> None:
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.attempt_number = failures
    assert 0 <= WAIT(state) <= LONGEST_WAIT_SECONDS


@pytest.mark.parametrize("text", ["", "5", "5x", "5s,,1m", "-5s", "0s", "25h"])
def test_a_broken_ladder_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a delay"):
        RetryLadder.parse(text)

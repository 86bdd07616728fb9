"""PostgreSQL's trouble, as others have had it: messages wait, and none is worn out by it."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from common import database
from common.messaging.retry import Kind, classify
from common.settings import DatabaseSettings
from conftest import MakePaybus
from devstack.stack import Stack
from support.paybus import Paybus
from support.waiting import until

Admin = Callable[[str], None]


def _subscriptions(paybus: Paybus) -> int:
    count: int = paybus.sql("subscription", "SELECT count(*) FROM subscriptions")[0][0]
    return count


def _status(paybus: Paybus, path: str) -> tuple[int, str]:
    answer = paybus.http.get(f"{paybus.layout.url('subscription-worker')}/{path}")
    return answer.status_code, answer.text


def _cut(stack: Stack, paybus: Paybus, change: str) -> None:
    """Change the database of the subscription service, and cut its connections."""
    name = paybus.layout.databases["subscription"].rpartition("/")[2].partition("?")[0]
    with psycopg.connect(stack.addresses.postgres_url, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" {change}')
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )


def test_a_database_that_takes_no_changes_is_away(make_paybus: MakePaybus, stack: Stack) -> None:
    """After a failover its name may lead to the old primary for a while. No connection that was
    made meanwhile is kept."""
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        paybus.subscribe()
        until(lambda: _subscriptions(paybus) == 1, what="it works")
        _cut(stack, paybus, "SET default_transaction_read_only = on")
        until(lambda: _status(paybus, "readyz")[0] == 503, what="it says it is not ready")
        for _ in range(20):
            paybus.subscribe()
        worker = paybus.system.processes["subscription-worker"]
        until(lambda: "waiting out an outage" in worker.log.read_text(), what="it notices")
        assert _status(paybus, "healthz")[0] == 200, "a restart would not mend it"
        _cut(stack, paybus, "RESET default_transaction_read_only")
        until(lambda: _subscriptions(paybus) == 21, what="it goes on where it stopped")
        until(lambda: _status(paybus, "readyz")[0] == 200, what="it is ready")
        assert paybus.dead_letters() == {}
        retried = paybus.metric("subscription-worker", "paybus_consumed_total", outcome="retried")
        assert retried == 0


async def test_a_connection_that_became_read_only_is_dropped_with_all_others(
    make_paybus: MakePaybus,
) -> None:
    with make_paybus() as paybus:
        url = paybus.layout.databases["subscription"].replace("postgresql", "postgresql+psycopg")
        settings = DatabaseSettings(database_url=SecretStr(url), database_pool_size=2)
        async with database.engine(settings) as engine:
            async with engine.connect() as one, engine.connect() as two:
                for connection in (one, two):
                    await connection.execute(text("SET default_transaction_read_only = on"))
                    await connection.commit()
            assert not await database.answers(engine)
            with pytest.raises(Exception, match="read-only") as raised:
                async with engine.begin() as connection:
                    await connection.execute(text("DELETE FROM outbox"))
            assert classify(raised.value) is Kind.OUTAGE
            for _ in range(2):
                async with engine.begin() as connection:
                    await connection.execute(text("DELETE FROM outbox"))
            assert await database.answers(engine)

"""PostgreSQL faults reported by others: messages wait, and none uses up its attempts."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import event, text

from common.db import database
from common.db.database import sessions_of
from common.error_policy import ErrorKind, classify
from common.messaging.publisher import Publisher
from common.messaging.relay import Relay
from common.settings import DatabaseSettings
from conftest import MakePaybus
from devstack.addresses import DevstackError, with_port
from devstack.processes.stack import Stack
from devstack.servers import debian
from support.paybus import Paybus, connected, cut
from support.waiting import until


def _subscriptions(paybus: Paybus) -> int:
    count: int = paybus.sql("subscription", "SELECT count(*) FROM subscriptions")[0][0]
    return count


def _status(paybus: Paybus, path: str) -> tuple[int, str]:
    answer = paybus.http.get(f"{paybus.layout.url('subscription-worker')}/{path}")
    return answer.status_code, answer.text


def test_a_database_that_takes_no_changes_is_away(make_paybus: MakePaybus) -> None:
    """After a failover, the host name may lead to the old primary for a while. Connections made
    meanwhile must not be reused."""
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        paybus.subscribe()
        until(lambda: _subscriptions(paybus) == 1, what="it works")
        cut(paybus, "subscription", "SET default_transaction_read_only = on")
        until(lambda: _status(paybus, "readyz")[0] == 503, what="it says it is not ready")
        for _ in range(20):
            paybus.subscribe()
        worker = paybus.system.processes["subscription-worker"]
        until(lambda: "outage_waiting" in worker.log.read_text(), what="it notices")
        assert _status(paybus, "healthz")[0] == 200, "a restart would not mend it"
        cut(paybus, "subscription", "RESET default_transaction_read_only")
        until(lambda: _subscriptions(paybus) == 21, what="it goes on where it stopped")
        until(lambda: _status(paybus, "readyz")[0] == 200, what="it is ready")
        assert paybus.dead_letters() == {}
        retried = paybus.metric(
            "subscription-worker", "paybus_messages_consumed_total", outcome="retried"
        )
        assert retried == 0


def test_while_the_database_is_away_no_message_is_worn_out_by_lost_connections(
    make_paybus: MakePaybus,
) -> None:
    """The broker counts redeliveries and dead-letters a message at its limit."""
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        paybus.subscribe()
        until(lambda: _subscriptions(paybus) == 1, what="it works")
        cut(paybus, "subscription", "ALLOW_CONNECTIONS false")
        for _ in range(5):
            paybus.subscribe()
        worker = paybus.system.processes["subscription-worker"]
        until(lambda: "outage_waiting" in worker.log.read_text(), what="it notices")
        for _ in range(2):
            _lose_consumers(paybus)
        waiting = paybus.messages("subscription.billing")
        returned = [each["headers"].get("x-delivery-count", 0) for each in waiting]
        assert len(returned) == 5
        assert max(returned) <= 1, "given back once, and not taken again"
        assert _status(paybus, "healthz")[0] == 200, "a restart would not mend it"
        cut(paybus, "subscription", "ALLOW_CONNECTIONS true")
        until(lambda: _subscriptions(paybus) == 6, what="it goes on where it stopped")
        assert paybus.dead_letters() == {}


def _lose_consumers(paybus: Paybus) -> None:
    """Close the consumers' connections as soon as they appear."""
    url = f"{paybus.management}/api/vhosts/{paybus.virtual_host}/connections"

    def there() -> list[str]:
        return [
            each["name"]
            for each in paybus.http.get(url).json()
            if each.get("client_properties", {}).get("connection_name", "").endswith("consumers")
        ]

    for name in until(there, what="it has connected again"):
        paybus.http.delete(f"{paybus.management}/api/connections/{name}")
    until(lambda: not there(), what="it is gone")


async def test_a_connection_that_became_read_only_is_dropped_with_all_others(
    make_paybus: MakePaybus,
) -> None:
    with make_paybus() as paybus:
        url = paybus.layout.databases["subscription"]
        settings = DatabaseSettings(database_url=SecretStr(url), database_pool_size=2)
        async with database.engine(settings) as engine:
            async with engine.connect() as one, engine.connect() as two:
                for connection in (one, two):
                    await connection.execute(text("SET default_transaction_read_only = on"))
                    await connection.commit()
            assert await database.fault(sessions_of(engine)) is not None
            with pytest.raises(Exception, match="read-only") as raised:
                async with engine.begin() as connection:
                    await connection.execute(text("DELETE FROM outbox"))
            assert classify(raised.value) is ErrorKind.OUTAGE
            for _ in range(2):
                async with engine.begin() as connection:
                    await connection.execute(text("DELETE FROM outbox"))
            assert await database.fault(sessions_of(engine)) is None


async def test_a_look_at_the_outbox_costs_the_same_while_a_snapshot_is_held(
    make_paybus: MakePaybus,
) -> None:
    """As during a backup: removed rows stay in the table, and the relay rarely scans past them."""
    with make_paybus() as paybus:
        url = paybus.layout.databases["subscription"].replace("+psycopg", "")
        settings = DatabaseSettings(database_url=SecretStr(url), database_pool_size=2)
        looks: list[tuple[str, Any]] = []
        async with (
            connected(paybus.layout.rabbitmq_url) as broker,
            database.engine(settings) as engine,
        ):
            relay = Relay(engine, Publisher(broker, timeout=20), settled=0)

            @event.listens_for(engine.sync_engine, "before_cursor_execute")
            def see(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
                if "SKIP LOCKED" in statement:
                    looks.append((statement, parameters))

            with psycopg.connect(url) as backup:
                backup.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                backup.execute("SELECT count(*) FROM outbox")
                for count in (100_000, 10):
                    paybus.sql("subscription", "DELETE FROM outbox")
                    paybus.sql(
                        "subscription",
                        "INSERT INTO outbox (exchange, routing_key, body) "
                        "SELECT 'payments', 'payment.none', 'x' FROM generate_series(1, %s)",
                        count,
                    )
                assert await relay.drain()
                assert await relay.drain()
                whole, last = looks[0], looks[-1]
                costs = [await _pages(engine, *each) for each in (whole, last)]
        assert costs[0] > 5 * costs[1], costs


async def _pages(engine: Any, statement: str, parameters: Any) -> int:
    """Return how many pages PostgreSQL reads for the statement."""
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # as the relay does
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
        found = (await connection.exec_driver_sql(explain, parameters)).scalar_one()
        plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize("form", ["hosts", "blank"])
async def test_whoever_listens_reads_the_url_as_the_pool_does(
    make_paybus: MakePaybus, stack: Stack, form: str
) -> None:
    """Several hosts, as SQLAlchemy writes them in a URL; a password with a space."""
    with make_paybus() as paybus:
        plain = paybus.layout.databases["subscription"]
        user, _, rest = plain.partition("://")[2].partition("@")
        place, _, name = rest.partition("/")
        if form == "blank":
            role = f"blank_{uuid4().hex[:8]}"
            with psycopg.connect(stack.addresses.postgres_url, autocommit=True) as admin:
                admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'with a blank'")
            url = f"postgresql://{role}:with a blank@{place}/{name}"
        else:
            url = f"postgresql://{user}@/{name}?host={place}&host=127.0.0.1:1"
        settings = DatabaseSettings(database_url=SecretStr(url), database_pool_size=2)
        async with database.engine(settings) as engine:
            assert await database.fault(sessions_of(engine)) is None
            async with await database.connect_directly(engine) as connection:
                await connection.execute("LISTEN outbox")


@pytest.mark.parametrize("parameters", ["", "options"], ids=["refused", "ignored"])
def test_a_pooler_is_refused_with_a_sentence(
    make_paybus: MakePaybus, pgbouncer: Path, tmp_path: Path, parameters: str
) -> None:
    """PgBouncer would silently drop a connection's timeouts and its LISTEN."""
    with make_paybus() as paybus:
        url = urlsplit(paybus.layout.databases["subscription"].replace("+psycopg", ""))
        users, config = tmp_path / "users", tmp_path / "pgbouncer.ini"
        users.write_text(f'"{url.username}" "{url.password}"\n')
        port = free_port()
        config.write_text(
            f"[databases]\n* = host={url.hostname} port={url.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"pool_mode = transaction\nauth_type = plain\nauth_file = {users}\n"
            f"ignore_startup_parameters = {parameters or 'extra_float_digits'}\n"
        )
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents[:2]:
            parent.chmod(0o755)
        pooler = subprocess.Popen([pgbouncer, "-u", "nobody", str(config)])
        try:
            until(lambda: listening(port), what="PgBouncer listens")
            spec = paybus.layout.spec("subscription-worker")
            env = {**spec.env, "DATABASE_URL": with_port(url.geturl(), port)}
            worker = paybus.system.start_one(replace(spec, env=env))
            assert worker.wait(30) == 2
            assert "it leads to a pooler such as PgBouncer" in worker.tail()
        finally:
            pooler.terminate()
            pooler.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def listening(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def pgbouncer() -> Path:
    """Return Debian's PgBouncer, installed if possible; skip the test otherwise."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to run PgBouncer as somebody else")
    with suppress(DevstackError):
        debian.install("pgbouncer", otherwise="it is Debian's")
    if (found := shutil.which("pgbouncer")) is None:
        pytest.skip("needs Debian's PgBouncer")
    return Path(found)

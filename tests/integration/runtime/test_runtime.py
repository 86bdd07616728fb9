"""Processes start, stop and survive the loss of their dependencies."""

from __future__ import annotations

import asyncio
import json
import select
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from http.client import HTTPConnection

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from tenacity import wait_fixed

from bank_sync import models as bank_models
from common.messaging import tables
from common.messaging.connection import BrokerConnection
from common.resilience import circuit_store, rate_limiter
from common.scheduling import tables as _schedules  # noqa: F401 - it registers the table
from conftest import MakePaybus
from devstack.addresses import DevstackError
from devstack.processes.process import Process
from devstack.processes.stack import Stack
from devstack.webhook import subscription_created
from operations import models as operations_models
from orders import models as orders_models
from payouts import models as payouts_models
from provisioning import models as provisioning_models
from subscription import models as subscription_models
from support.paybus import Paybus
from support.waiting import until, until_async
from webhook_gateway import models as gateway_models


def _subscriptions(paybus: Paybus) -> int:
    count: int = paybus.sql("subscription", "SELECT count(*) FROM subscriptions")[0][0]
    return count


def _oldest(paybus: Paybus) -> float:
    metric = "paybus_consumer_oldest_message_age_seconds"
    return paybus.metric("subscription-worker", metric, queue="subscription.billing")


def test_sigterm_finishes_the_batch_and_ends_with_status_0(make_paybus: MakePaybus) -> None:
    with make_paybus(["webhook-gateway"], CONSUMER_BATCH="10") as paybus:
        for _ in range(200):
            paybus.subscribe()
        worker: Process = paybus.system.start_one(paybus.layout.spec("subscription-worker"))
        until(lambda: _subscriptions(paybus) > 0, what="it works", pause=0.005)
        worker.kill(signal.SIGTERM)
        assert worker.wait(30) == 0
        done = _subscriptions(paybus)
        waiting = until(
            lambda: paybus.messages("subscription.billing"), what="the rest is still queued"
        )
        assert done + len(waiting) == 200, "acknowledged what it did, left what it did not do"
        outbox = paybus.sql("subscription", "SELECT count(*) FROM outbox")
        assert outbox == [(0,)], "what was committed was also published"
        assert "Traceback" not in worker.log.read_text()


def test_every_process_ends_with_status_0_on_sigterm(make_paybus: MakePaybus) -> None:
    names = ["webhook-gateway", "subscription-api", "provisioning-api", "provisioning-worker"]
    with make_paybus([*names, "sandbox-backend"]) as paybus:
        for name in names:
            process = paybus.system.processes[name]
            process.kill(signal.SIGTERM)
            assert process.wait(20) == 0, process.tail()


def test_whoever_answers_at_a_port_that_is_taken_is_not_taken_for_a_process_of_ours(
    make_paybus: MakePaybus,
) -> None:
    """As when a second `make run` is started beside the first."""
    with make_paybus(["webhook-gateway"]) as one, make_paybus() as two:
        port = one.layout.ports["webhook-gateway"]
        spec = two.layout.spec("webhook-gateway")
        ready = f"http://127.0.0.1:{port}/readyz"
        taken = replace(spec, env={**spec.env, "HTTP_PORT": str(port)}, ready=ready)
        with pytest.raises(DevstackError, match=f"can't listen on 127.0.0.1:{port}"):
            two.system.start_one(taken).wait_ready()


def test_an_idle_connection_is_not_closed_before_a_proxy_would_close_it(
    make_paybus: MakePaybus,
) -> None:
    """Otherwise the proxy may send a webhook at that moment, and respond 502 to the provider."""
    with make_paybus(["webhook-gateway"]) as paybus:
        port = paybus.layout.ports["webhook-gateway"]
        with closing(HTTPConnection("127.0.0.1", port)) as idle:
            idle.request("GET", "/healthz")
            answer = idle.getresponse()
            # Read to the end: head and body may arrive in two packets.
            assert (answer.status, bool(answer.read())) == (200, True)
            longer_than_uvicorn_s_own = 6.5
            readable, _, _ = select.select([idle.sock], [], [], longer_than_uvicorn_s_own)
            assert not readable, "it was closed, or something was sent that nobody asked for"


def test_a_database_that_is_away_costs_no_message_an_attempt(
    make_paybus: MakePaybus, stack: Stack
) -> None:
    """Connections are cut and refused for a while: no retry, no dead letter, no restart."""
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        paybus.subscribe()
        until(lambda: _subscriptions(paybus) == 1, what="it works")
        database = paybus.layout.databases["subscription"].rpartition("/")[2]
        with psycopg.connect(stack.addresses.postgres_url, autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [database],
            )
            for _ in range(20):
                paybus.subscribe()
            worker = paybus.system.processes["subscription-worker"]
            until(lambda: "outage_waiting" in worker.log.read_text(), what="it notices")
            url = f"{paybus.layout.url('subscription-worker')}/readyz"
            until(lambda: paybus.http.get(url).status_code == 503, what="it says it is not ready")
            alive = paybus.http.get(url.replace("readyz", "healthz"))
            assert alive.status_code == 200, "a restart would not bring the database back"
            until(lambda: _oldest(paybus) > 1, what="it says for how long a message waits")
            admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
        until(lambda: _subscriptions(paybus) == 21, what="it goes on where it stopped")
        until(lambda: _oldest(paybus) == 0, what="and holds no message any more")
        assert worker.is_running()
        assert paybus.dead_letters() == {}
        retried = paybus.metric(
            "subscription-worker", "paybus_messages_consumed_total", outcome="retried"
        )
        assert retried == 0


def test_a_consumer_whose_queue_was_deleted_declares_it_again(make_paybus: MakePaybus) -> None:
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        queue = f"{paybus.management}/api/queues/{paybus.virtual_host}/subscription.billing"
        assert paybus.http.delete(queue).status_code == 204
        worker = paybus.system.processes["subscription-worker"]

        def begun() -> int:
            lines = worker.log.read_text().splitlines()
            consuming = (each for each in lines if each.endswith('"message": "consumer_started"}'))
            return sum('"subscription.billing"' in each for each in consuming)

        until(lambda: begun() == 2, what="it consumes again")
        paybus.subscribe()
        until(lambda: _subscriptions(paybus) == 1, what="it works")


class HangingUp:
    """A port that closes connections immediately, as a proxy without its broker does."""

    def __init__(self) -> None:
        self.calls = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._hang_up, "127.0.0.1", 0)
        yield f"amqp://u:p@127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        server.close()

    async def _hang_up(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        writer.close()


async def _nothing(*_: object) -> None:
    pass


async def test_the_connection_is_tried_for_ever_whoever_answers() -> None:
    port = HangingUp()
    async with port.listening() as url:
        broker = BrokerConnection(url, name="test", on_connect=_nothing, wait=wait_fixed(0.001))
        await broker.start()

        async def many_calls() -> bool:
            return broker.given_up or port.calls > 100

        await until_async(many_calls, what="100 attempts")
        assert not broker.given_up
        await broker.close()


async def test_who_stops_at_the_moment_that_the_connection_fails_stops() -> None:
    """aiormq may take a cancellation for a failure, which would then be retried forever."""
    port = HangingUp()
    async with port.listening() as url:
        for number in range(150):
            broker = BrokerConnection(
                url, name="test", on_connect=_nothing, wait=wait_fixed(0.0001)
            )
            await broker.start()
            before = port.calls

            async def some_calls(wanted: int = before + number % 5 + 1) -> bool:
                return port.calls >= wanted

            await until_async(some_calls, what="it tries")
            async with asyncio.timeout(20):
                await broker.close()


def test_logs_are_json_with_the_events_ids_and_no_secret(make_paybus: MakePaybus) -> None:
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        broken = subscription_created("logged")
        broken["data"]["object"]["metadata"]["organization"] = "\x00"
        assert paybus.send(broken).status_code == 200
        worker = paybus.system.processes["subscription-worker"]
        until(lambda: "message_dead_lettered" in worker.log.read_text(), what="it is logged")
        lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
        assert {"service": "subscription", "role": "worker"}.items() <= lines[-1].items()
        password = paybus.layout.rabbitmq_url.split(":")[2].partition("@")[0]
        for process in paybus.system.processes.values():
            assert password not in process.log.read_text()
            assert "whsec_" not in process.log.read_text()


def test_migrations_make_exactly_the_tables_that_the_code_uses(make_paybus: MakePaybus) -> None:
    rate_limited = {"payouts", "bank-sync", "webhook-gateway"}
    calling = {"payouts", "bank-sync", "subscription", "provisioning"}
    with make_paybus() as paybus:
        for service, base in (
            ("subscription", subscription_models.Base),
            ("provisioning", provisioning_models.Base),
            ("webhook-gateway", gateway_models.Base),
            ("payouts", payouts_models.Base),
            ("bank-sync", bank_models.Base),
            ("orders", orders_models.Base),
            ("operations", operations_models.Base),
        ):
            engine = create_engine(paybus.layout.databases[service])
            with engine.connect() as connection:
                context = MigrationContext.configure(connection)
                of_common = [tables.metadata]
                of_common += [rate_limiter.metadata] if service in rate_limited else []
                of_common += [circuit_store.metadata] if service in calling else []
                differences = compare_metadata(context, [base.metadata, *of_common])  # type: ignore[arg-type]
            engine.dispose()
            assert differences == []

"""RabbitMQ faults reported by others: a full, distant or strict broker blocks no other work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from common.contracts import topology
from common.contracts.event import Event
from common.contracts.provisioning import ReconcileOrganization
from common.contracts.retry_ladder import RetryLadder
from common.contracts.topology import Binding
from common.db import database
from common.errors import Unavailable
from common.messaging.connection import BrokerConnection
from common.messaging.effect_consumer import EffectfulConsumer
from common.messaging.events import new_event
from common.messaging.publisher import Publisher
from common.messaging.relay import Relay
from common.messaging.topology_declarer import declaring
from common.observability.redaction import Redactor
from common.settings import DatabaseSettings
from conftest import MakePaybus
from devstack.addresses import with_port
from support.paybus import SHORT_LADDER, Paybus, connected
from support.proxy import LosesConfirms
from support.slow_link import slow_link
from support.waiting import until, until_async

_WRITE = (
    "INSERT INTO outbox (exchange, routing_key, body) "
    "SELECT 'payments', %s, convert_to(repeat('x', %s), 'UTF8') FROM generate_series(1, %s)"
)


@pytest.fixture
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    """Bind a queue that rejects all publishes to `one.full`, and a tap to `one.open`."""
    with make_paybus(["subscription-worker"]) as paybus:
        paybus.tap("payments", "one.open")
        queue = f"{paybus.virtual_host}/full"
        api = f"{paybus.management}/api"
        nothing = {
            "durable": True,
            "arguments": {"x-max-length": 0, "x-overflow": "reject-publish"},
        }
        paybus.http.put(f"{api}/queues/{queue}", json=nothing).raise_for_status()
        binding = f"{paybus.virtual_host}/e/payments/q/full"
        key = {"routing_key": "one.full"}
        paybus.http.post(f"{api}/bindings/{binding}", json=key).raise_for_status()
        yield paybus


async def test_a_connection_on_which_nothing_is_confirmed_any_more_is_re_established(
    paybus: Paybus,
) -> None:
    """RabbitMQ 4.3 leaves connections to a formerly isolated node in this state (ADR 27)."""
    proxy = LosesConfirms([urlsplit(paybus.layout.rabbitmq_url).port or 0])
    try:
        async with connected(with_port(paybus.layout.rabbitmq_url, proxy.port)) as broker:
            publisher = Publisher(broker, timeout=1)

            async def is_confirmed() -> bool:
                try:
                    await publisher.publish("payments", "one.open", b"{}")
                except Unavailable:
                    return False
                return True

            assert await is_confirmed()
            proxy.lose()
            assert not await is_confirmed()
            await until_async(is_confirmed, what="it is confirmed again")
    finally:
        proxy.close()


def _write(paybus: Paybus, key: str, count: int, *, bytes_: int = 10) -> None:
    paybus.sql("subscription", _WRITE, key, bytes_, count)


def _left(paybus: Paybus) -> dict[str, int]:
    query = "SELECT routing_key, count(*) FROM outbox WHERE set_aside IS NULL GROUP BY 1"
    return dict(paybus.sql("subscription", query))


def test_a_queue_that_refuses_holds_up_nobody_else(paybus: Paybus) -> None:
    _write(paybus, "one.full", 2600)
    _write(paybus, "one.open", 10)
    until(lambda: _left(paybus) == {"one.full": 2600}, what="what is behind has left")
    late = "SELECT extract(epoch FROM now() - min(created_at)) > 5 FROM outbox"
    until(lambda: paybus.sql("subscription", late) == [(True,)], what="it is tried again")
    oldest = partial(paybus.metric, "subscription-worker", "paybus_outbox_oldest_event_age_seconds")
    until(lambda: oldest() > 4, what="it shows")
    tried = _published(paybus, "unconfirmed")
    assert 500 <= tried < 550, "what was refused is tried by one, not by five hundred"
    full = f"{paybus.management}/api/queues/{paybus.virtual_host}/full"
    assert paybus.http.delete(full).status_code == 204
    until(lambda: _left(paybus) == {}, what="it goes on when there is room")


async def test_what_was_held_leaves_at_once_when_there_is_room(paybus: Paybus) -> None:
    """The relay has already passed them, because others have been sent meanwhile."""
    paybus.system.processes.pop("subscription-worker").stop()
    settings = DatabaseSettings(
        database_url=SecretStr(paybus.layout.databases["subscription"]), database_pool_size=2
    )
    async with (
        connected(paybus.layout.rabbitmq_url) as broker,
        database.engine(settings) as engine,
    ):
        relay = Relay(engine, Publisher(broker, timeout=20), settled=0)
        for key, count in (("one.full", 1200), ("one.open", 5), ("one.open", 5)):
            _write(paybus, key, count)
            await relay.drain()
        assert _left(paybus) == {"one.full": 1200}
        full = f"{paybus.management}/api/queues/{paybus.virtual_host}/full"
        paybus.http.delete(full).raise_for_status()

        async def some_left() -> bool:
            await relay.drain()
            return _left(paybus) != {"one.full": 1200}

        await until_async(some_left, what="it is tried again")
        assert _left(paybus) == {}


def _published(paybus: Paybus, outcome: str) -> float:
    name, exchange = "paybus_messages_published_total", "payments"
    return paybus.metric("subscription-worker", name, exchange=exchange, outcome=outcome)


def test_many_large_rows_leave_and_each_once(paybus: Paybus) -> None:
    _write(paybus, "one.open", 500, bytes_=70_000)
    until(lambda: _left(paybus) == {}, what="they have left")
    assert _published(paybus, "unconfirmed") == 0
    assert len(paybus.messages("tests.tap")) == 500, "no copies"


def test_a_row_that_no_broker_takes_is_set_aside_and_shows(paybus: Paybus) -> None:
    _write(paybus, "one.open", 1, bytes_=17 * 1024 * 1024)
    _write(paybus, "k" * 300, 1)
    _write(paybus, "one.open", 1)
    until(lambda: _left(paybus) == {}, what="what is behind has left")
    said = paybus.sql("subscription", "SELECT set_aside FROM outbox ORDER BY position")
    assert "more than RabbitMQ accepts" in said[0][0]
    assert "encoded" in said[1][0]
    count = "paybus_outbox_set_aside"
    until(lambda: paybus.metric("subscription-worker", count) == 2, what="it is counted")
    assert "outbox_row_set_aside" in paybus.log("subscription-worker")


@pytest.mark.parametrize("text", ["\N{GRINNING FACE}" * 3_000, "語" * 20_000])
async def test_an_error_in_any_script_becomes_a_dead_letter_and_stops_nobody(
    make_paybus: MakePaybus, text: str
) -> None:
    """Headers share one frame and grow with each attempt: a larger frame would close the connection
    repeatedly."""
    good: list[str] = []

    async def effect(event: Event[Any]) -> None:
        if event.subject == "bad":
            raise RuntimeError(text)
        good.append(event.subject)

    with make_paybus() as paybus:
        ladder = RetryLadder.parse(SHORT_LADDER)
        url = paybus.layout.databases["provisioning"]
        settings = DatabaseSettings(database_url=SecretStr(url), database_pool_size=2)
        async with (
            connected(paybus.layout.rabbitmq_url) as broker,
            database.engine(settings) as engine,
        ):
            publisher = Publisher(broker, timeout=20)
            consumer = EffectfulConsumer(
                topology.queue("provisioning.organizations"),
                effect,
                concurrency=1,
                broker=broker,
                publisher=publisher,
                sessions=database.sessions_of(engine),
                ladder=ladder,
                redact=Redactor(),
                source="/test",
            )
            running = asyncio.create_task(consumer.run())
            for subject in ("bad", "good"):
                event = new_event(
                    id=subject,
                    type="organization.reconcile",
                    source="/test",
                    subject=subject,
                    tenant="default",
                    data=ReconcileOrganization(integration_id=subject),
                )
                await publisher.publish("", "provisioning.organizations", event.encode())
            dead = "provisioning.organizations.dead"
            letters = await until_async(
                lambda: asyncio.to_thread(paybus.messages, dead), what="it is a dead letter"
            )
            consumer.stop()
            await running
        assert good == ["good"]
        (letter,) = letters
        assert text[:100] in letter["headers"]["x-paybus-error"]
        assert len(json.loads(letter["headers"]["x-paybus-history"])) == 6


def test_a_new_wait_in_the_ladder_is_no_queue_that_was_lost(make_paybus: MakePaybus) -> None:
    """Otherwise every queue would be refilled with seven days of the journal."""
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        paybus.subscribe()
        spec = paybus.layout.spec("subscription-worker", replica=1)
        longer = {"RETRY_LADDER": f"{SHORT_LADDER},450ms"}
        paybus.system.start_one(replace(spec, env={**spec.env, **longer})).wait_ready()
        paybus.subscribe()
        count = "SELECT count(*) FROM subscriptions"
        until(lambda: paybus.sql("subscription", count) == [(2,)], what="it works")
        logs = [each.log.read_text() for each in paybus.system.processes.values()]
        assert not any("recovering" in log or "queue_recover" in log for log in logs)


@pytest.mark.parametrize(("round_trip", "processes"), [(0.3, 1), (0.05, 20)])
async def test_processes_connect_to_a_broker_that_is_far_away_all_at_once(
    make_paybus: MakePaybus, round_trip: float, processes: int
) -> None:
    """On a new virtual host, one connection declares the topology, the others only check."""
    with make_paybus() as paybus:
        async with slow_link(paybus.layout.rabbitmq_url, round_trip=round_trip) as url:
            brokers = [
                BrokerConnection(
                    url,
                    name=f"test {number}",
                    on_connect=declaring(RetryLadder.parse(SHORT_LADDER)),
                )
                for number in range(2 * processes)  # each publishes and consumes
            ]
            for broker in brokers:
                await broker.start()
            channels = await asyncio.gather(*(each.channel(within=100) for each in brokers))
            await channels[0].get_queue("subscription.billing")
            await asyncio.gather(*(each.close() for each in brokers))


def test_a_queue_that_is_gone_is_declared_with_its_bindings(make_paybus: MakePaybus) -> None:
    """The mark says that everything was already declared."""
    with make_paybus(["subscription-worker"]) as paybus:
        queues = f"{paybus.management}/api/queues/{paybus.virtual_host}/subscription.billing"
        bindings = paybus.http.get(f"{queues}/bindings").json()
        paybus.http.delete(queues).raise_for_status()

        def bound() -> bool:
            answer = paybus.http.get(f"{queues}/bindings")
            return answer.is_success and len(answer.json()) == len(bindings)

        until(bound, what="the queue is there again, and bound")


async def test_a_version_that_is_rolled_back_has_its_bindings(
    make_paybus: MakePaybus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer version has removed a binding; the older version's mark is void."""
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        old = Binding("subscriptions", "provider_subscription.*")
        assert old in topology.queue("subscription.billing").bindings
        newer = tuple(
            replace(each, bindings=tuple(b for b in each.bindings if b != old))
            for each in topology.QUEUES
        )
        retired = (*topology.RETIRED_BINDINGS, ("subscription.billing", old))
        with monkeypatch.context() as version:
            version.setattr(topology, "QUEUES", newer)
            version.setattr(topology, "RETIRED_BINDINGS", retired)
            async with connected(paybus.layout.rabbitmq_url):
                pass  # the newer version has declared its topology
        worker = paybus.system.processes.pop("subscription-worker")
        await asyncio.to_thread(worker.stop)
        await asyncio.to_thread(paybus.start, "subscription-worker")
        paybus.subscribe()
        count = "SELECT count(*) FROM subscriptions"
        await asyncio.to_thread(
            until, lambda: paybus.sql("subscription", count) == [(1,)], what="it is bound again"
        )


async def test_many_large_dead_letters_fit_into_little_memory(make_paybus: MakePaybus) -> None:
    """Batches are limited by bytes, and messages are decoded one at a time."""
    with make_paybus(["operations-worker"]) as paybus:
        worker = paybus.system.processes["operations-worker"]
        before = _peak_megabytes(worker.pid)
        async with connected(paybus.layout.rabbitmq_url) as broker:
            publisher = Publisher(broker, timeout=30)
            large = {"type": "x", "source": "/x", "padding": "x" * 1_000_000}
            bodies = [json.dumps({**large, "id": str(number)}).encode() for number in range(200)]
            assert len(bodies[0]) > 1_000_000
            for start in range(0, 200, 10):
                ten = [
                    ("", "subscription.billing.dead", each) for each in bodies[start : start + 10]
                ]
                assert await publisher.publish_all(ten) == [None] * 10
        kept = "SELECT count(*) FROM dead_letters"
        await asyncio.to_thread(
            partial(until, seconds=120),
            lambda: paybus.sql("operations", kept) == [(200,)],
            what="all are stored",
        )
        assert _peak_megabytes(worker.pid) - before < 400


def _peak_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (each for each in status.splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

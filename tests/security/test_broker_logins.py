"""A service's broker login is valid for that service only."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused

from common.contracts import logins, topology
from common.contracts.event import CONTENT_TYPE
from common.contracts.registry import EVENT_TYPES
from common.contracts.retry_ladder import RetryLadder
from common.contracts.topology import GIVEN_UP, JOURNAL, MARKS, REFILLS, REPLAYS, Binding, Queue
from common.messaging import topology_declarer
from common.messaging.topology_declarer import TopologyMissing, declaring
from conftest import MakePaybus
from devstack.servers.rabbitmq import PrivateNode, find_server
from support.operations import PROCESSES
from support.paybus import SHORT_LADDER, Paybus, connected
from support.waiting import until
from webhook_gateway.delivery.spool import Spool, Spooled

_RETRIES = RetryLadder.parse(SHORT_LADDER).rungs[0].exchange
_SERVICES = sorted(logins.PUBLISHES)
_LIMITED = sorted({*_SERVICES} - {logins.DECLARES})


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(["operations-worker"], own_logins=True) as paybus:
        yield paybus


@asynccontextmanager
async def _as(paybus: Paybus, service: str) -> AsyncIterator[AbstractChannel]:
    connection = await aio_pika.connect(paybus.layout.broker_url(service))
    async with connection, connection.channel() as channel:
        yield channel


def test_a_new_broker_starts_with_the_definitions(tmp_path: Path) -> None:
    """As deploy/k8s has it import them. RabbitMQ 4 does not start when an import fails."""
    if (server := find_server()) is None:
        pytest.skip("needs a RabbitMQ on this machine")
    waits = [rung.name for rung in RetryLadder.parse(SHORT_LADDER).rungs]
    first, second = logins.definitions({each: each for each in _SERVICES}, waits)
    first["users"].append(logins.user("paybus", "secret-of-this-test", "administrator"))
    folder = tmp_path / "rabbitmq" / "definitions"
    folder.mkdir(parents=True)
    (folder / "logins.json").write_text(json.dumps(first))
    (folder / "topics.json").write_text(json.dumps(second))
    importing = [f"load_definitions = {folder}"]
    node = PrivateNode(
        server, tmp_path / "rabbitmq", "secret-of-this-test", configuration=importing
    )
    try:
        node.start()
        listed = node.control("list_topic_permissions", "--quiet")
    finally:
        node.stop(keep_data=False)
    for each in second["topic_permissions"]:
        assert re.search(
            rf"^{each['user']}\s+{re.escape(each['exchange'])}\s", listed, re.MULTILINE
        )


def _may_publish(service: str, exchange: str, type_: str) -> bool:
    pattern = logins.login_of(service, ()).topics.get(exchange)
    return pattern is not None and re.search(pattern, type_) is not None


async def _publish(channel: AbstractChannel, exchange: str, routing_key: str) -> None:
    to = (
        await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
    )
    await to.publish(aio_pika.Message(b"{}"), routing_key=routing_key)


def _refused(paybus: Paybus, service: str, exchange: str, routing_key: str) -> bool:
    async def try_it() -> bool:
        async with _as(paybus, service) as channel:
            try:
                await _publish(channel, exchange, routing_key)
            except ChannelAccessRefused:
                return True
        return False

    return asyncio.run(try_it())


def test_each_event_type_is_published_by_somebody_and_commands_by_one_alone() -> None:
    for type_, entry in EVENT_TYPES.items():
        by = [each for each in _LIMITED if _may_publish(each, entry.exchange, type_)]
        if type_ == "replay.items_completed":
            assert by == _LIMITED
        elif type_ == "job.run.operations":
            assert by == []
        else:
            assert len(by) == 1, f"{type_}: {by}"


@pytest.mark.parametrize("service", _LIMITED)
def test_no_message_gets_into_anothers_queue(paybus: Paybus, service: str) -> None:
    others = "payouts.direct" if service != "payouts" else "subscription.billing"
    for exchange in (_RETRIES, GIVEN_UP, REFILLS, REPLAYS, topology.DEAD_LETTER_EXCHANGE, ""):
        assert _refused(paybus, service, exchange, others), exchange
    assert _refused(paybus, service, MARKS, REPLAYS), "it would seem to be sent"
    commands = {"payouts": "payout.process.direct", "subscriptions": "billing_command.resume"}
    for exchange, command in commands.items():
        if not _may_publish(service, exchange, command):
            assert _refused(paybus, service, exchange, command), command


@pytest.mark.parametrize("service", _LIMITED)
def test_its_own_it_may(paybus: Paybus, service: str) -> None:
    own = next(each.name for each in topology.QUEUES if each.name.startswith(service))
    for exchange in (_RETRIES, GIVEN_UP, REFILLS):
        assert not _refused(paybus, service, exchange, own), exchange


@pytest.mark.parametrize("service", _LIMITED)
def test_no_other_queue_is_read_and_nothing_declared_or_deleted(
    paybus: Paybus, service: str
) -> None:
    others = [each.name for each in topology.QUEUES if not each.name.startswith(f"{service}.")]

    async def try_it() -> None:
        for name in (others[0], f"{others[0]}.dead"):
            async with _as(paybus, service) as channel:
                with pytest.raises(ChannelAccessRefused):
                    await (await channel.get_queue(name, ensure=False)).get(fail=False)
        async with _as(paybus, service) as channel:
            with pytest.raises(ChannelAccessRefused):
                await channel.declare_queue("mine", durable=True)
        async with _as(paybus, service) as channel:
            with pytest.raises(ChannelAccessRefused):
                await channel.queue_delete(JOURNAL)

    asyncio.run(try_it())


def test_what_somebody_deletes_is_declared_again_for_those_who_may_not(
    make_paybus: MakePaybus,
) -> None:
    names = [*PROCESSES, "webhook-gateway", "subscription-worker", "subscription-api"]
    with make_paybus(names, own_logins=True) as paybus:
        paybus.subscribe()
        vhost = paybus.virtual_host
        for deleted in ("queues", "subscription.billing"), ("exchanges", "retries.50ms"):
            url = f"{paybus.management}/api/{deleted[0]}/{vhost}/{deleted[1]}"
            paybus.http.delete(url).raise_for_status()
        number = paybus.subscribe()
        path = f"/v1/customers?provider_customer_id=cus_{number}"
        until(
            lambda: paybus.api("GET", "subscription", path).json()["items"],
            what="it is consumed again",
        )


async def test_a_new_version_waits_for_its_bindings(
    make_paybus: MakePaybus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events published before their bindings exist reach the journal but no queue, and are lost."""
    new = Binding("subscriptions", "provider_subscription.*")
    older = tuple(
        replace(each, bindings=tuple(one for one in each.bindings if one != new))
        for each in topology.QUEUES
    )
    with make_paybus([], own_logins=True) as paybus:
        with monkeypatch.context() as version:
            version.setattr(topology, "QUEUES", older)
            async with connected(paybus.layout.broker_url("operations")):
                pass  # the previous version of operations has declared its topology
        await asyncio.to_thread(_rolled_out, paybus)


def _rolled_out(paybus: Paybus) -> None:
    """Start the gateway before operations, which declares the missing bindings."""
    paybus.system.start(["webhook-gateway"], wait=False)
    gateway = paybus.system.processes["webhook-gateway"]
    until(gateway.log.exists, what="it begins")
    until(lambda: "may not declare it" in gateway.log.read_text(), what="it waits")
    paybus.start("operations-worker", "subscription-worker")
    gateway.wait_ready()
    paybus.subscribe()
    kept = "SELECT count(*) FROM subscriptions"
    until(lambda: paybus.sql("subscription", kept) == [(1,)], what="it has its effect")


def test_what_a_login_may_not_publish_holds_up_nothing_else(make_paybus: MakePaybus) -> None:
    """As for a version whose definitions have not been imported yet."""
    with make_paybus(["operations-worker", "provisioning-worker"], own_logins=True) as paybus:
        add = "INSERT INTO outbox (exchange, routing_key, body) VALUES (%s, %s, '{}')"
        for type_ in ("organization.renamed_9", *["organization.provisioned"] * 3):
            paybus.sql("provisioning", add, "provisioning", type_)
        query = "SELECT routing_key FROM outbox"
        until(
            lambda: paybus.sql("provisioning", query) == [("organization.renamed_9",)],
            what="the others have left",
        )
        until(
            lambda: "import the broker's definitions" in paybus.log("provisioning-worker"),
            what="it says what to do",
        )


async def test_what_a_login_may_not_publish_holds_up_no_other_spooled_webhook(
    make_paybus: MakePaybus, tmp_path: Path
) -> None:
    spool = Spool(tmp_path, most_bytes=1024**2)
    await spool.open()
    for type_ in ("nothing.of_the_gateway", "provider.stripe.account.updated"):
        body = json.dumps({"id": type_}).encode()
        await spool.add(Spooled("payments", type_, body, {}, CONTENT_TYPE))
    await spool.close()
    processes = ["operations-worker"]
    with make_paybus(processes, own_logins=True, WEBHOOK_SPOOL_DIR=str(tmp_path)) as paybus:
        paybus.tap("payments", "provider.#")
        paybus.start("webhook-gateway")
        until(
            lambda: "import the broker's definitions" in paybus.log("webhook-gateway"),
            what="it says what to do",
        )
        until(
            lambda: paybus.metric("webhook-gateway", "paybus_spool_pending_messages") == 1,
            what="the other one has left",
        )
        assert {each["id"] for each in paybus.tapped()} == {"provider.stripe.account.updated"}


async def test_a_refill_waits_for_the_bindings_of_a_queue_that_is_declared_again(
    make_paybus: MakePaybus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that declares a queue may die before it binds it."""
    name, ladder = "subscription.billing", RetryLadder.parse(SHORT_LADDER)
    declared = topology_declarer._declare_queue

    async def dies(queue: Queue, channel: AbstractChannel) -> None:
        if queue.name == name:
            arguments = topology.queue_arguments(queue)
            await channel.declare_queue(name, durable=True, arguments=arguments)
            raise ConnectionError("killed")
        await declared(queue, channel)

    with make_paybus([], own_logins=True) as paybus:
        operations = paybus.layout.broker_url("operations")
        async with connected(operations):
            pass
        async with await aio_pika.connect(operations) as connection:
            async with connection.channel() as channel:
                await channel.queue_delete(name)
            with monkeypatch.context() as patched:
                patched.setattr(topology_declarer, "_declare_queue", dies)
                with pytest.raises(ConnectionError):
                    await declaring(ladder)(connection, True)
        limited = await aio_pika.connect(paybus.layout.broker_url("subscription"))
        async with limited:
            with pytest.raises(TopologyMissing):
                await declaring(ladder)(limited, True)
        async with await aio_pika.connect(operations) as connection:
            await declaring(ladder)(connection, True)
        async with await aio_pika.connect(paybus.layout.broker_url("subscription")) as limited:
            await declaring(ladder)(limited, True)

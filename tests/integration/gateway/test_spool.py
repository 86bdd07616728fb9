"""The local spool: with it, no webhook is refused or lost while the broker is down.

The connection to the broker is cut here; `make chaos` kills the broker itself, under load
(`spool`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from conftest import MakePaybus
from devstack.processes.stack import Stack
from devstack.webhook import subscription_created
from support.paybus import Paybus
from support.proxy import Line, Proxy
from support.waiting import until
from webhook_gateway.delivery.spool import FILE, Spool, Spooled


@pytest.fixture
def way(stack: Stack) -> Iterator[Proxy]:
    """Proxy the gateway's connection to the broker."""
    port = urlsplit(stack.addresses.rabbitmq.url).port
    assert port is not None
    proxy = Proxy([port])
    yield proxy
    proxy.close()


@pytest.fixture
def paybus(make_paybus: MakePaybus, way: Proxy, tmp_path: Path) -> Iterator[Paybus]:
    settings = {"WEBHOOK_SPOOL_DIR": str(tmp_path), "GATEWAY_SPOOL_MAX_BYTES": str(1024**2)}
    with make_paybus(["webhook-gateway"], rabbitmq_by=way, **settings) as paybus:
        # With a spool, a gateway is ready before it is connected.
        health = f"{paybus.layout.url('webhook-gateway')}/health/detailed"
        until(lambda: paybus.http.get(health).json()["broker"]["connected"], what="connected")
        yield paybus


def spooled(paybus: Paybus) -> float:
    return paybus.metric("webhook-gateway", "paybus_spool_pending_messages")


def until_spooled(paybus: Paybus, count: int) -> None:
    until(lambda: spooled(paybus) == count, what=f"{count} wait in the spool")


def queued(paybus: Paybus) -> list[str]:
    """Return the ids in the queue, and empty it."""
    url = f"{paybus.management}/api/queues/{paybus.virtual_host}/subscription.billing/get"
    take = {"count": 10_000, "ackmode": "ack_requeue_false", "encoding": "auto"}
    answer = paybus.http.post(url, json=take).raise_for_status()
    return [json.loads(each["payload"])["id"] for each in answer.json()]


def test_while_the_broker_is_down_webhooks_are_answered_200_and_handed_on_in_order(
    paybus: Paybus, way: Proxy
) -> None:
    assert paybus.send(subscription_created("before")).status_code == 200
    way.line(Line.CUT)
    for number in range(150):
        assert paybus.send(subscription_created(f"down-{number:03d}")).status_code == 200
    until_spooled(paybus, 150)
    assert paybus.metric("webhook-gateway", "paybus_spool_oldest_message_age_seconds") > 0
    assert paybus.http.get(f"{paybus.layout.url('webhook-gateway')}/readyz").status_code == 200
    way.line(Line.GOOD)
    until(lambda: spooled(paybus) == 0, what="they are handed on")
    ids = queued(paybus)
    assert ids[0] == "evt_before"
    fresh = list(dict.fromkeys(ids[1:]))  # an event repeated by a retry has the same id
    assert fresh == [f"evt_down-{number:03d}" for number in range(150)]


def test_what_was_answered_200_survives_sigkill_of_the_gateway(paybus: Paybus, way: Proxy) -> None:
    way.line(Line.CUT)
    for number in range(20):
        assert paybus.send(subscription_created(f"killed-{number}")).status_code == 200
    paybus.system.processes["webhook-gateway"].kill()
    paybus.start("webhook-gateway")
    until_spooled(paybus, 20)
    way.line(Line.GOOD)
    until(lambda: spooled(paybus) == 0, what="they are handed on")
    assert {f"evt_killed-{number}" for number in range(20)} <= set(queued(paybus))


def test_a_full_spool_answers_503_and_takes_again_when_it_is_empty(
    paybus: Paybus, way: Proxy
) -> None:
    way.line(Line.CUT)
    webhook = subscription_created("large")
    webhook["data"]["object"]["metadata"]["padding"] = "x" * 200_000
    answers = [paybus.send(webhook | {"id": f"evt_{number}"}).status_code for number in range(8)]
    assert answers[0] == 200
    assert answers[-1] == 503
    assert answers == sorted(answers), "once it is full it is full"
    until_spooled(paybus, answers.count(200))
    way.line(Line.GOOD)
    until(lambda: spooled(paybus) == 0, what="it is handed on")
    assert paybus.send(webhook | {"id": "evt_again"}).status_code == 200


def test_two_gateways_may_share_a_folder_and_each_hands_on_what_the_other_left(
    make_paybus: MakePaybus, way: Proxy, tmp_path: Path
) -> None:
    settings = {"WEBHOOK_SPOOL_DIR": str(tmp_path)}
    with (
        make_paybus(["webhook-gateway"], rabbitmq_by=way, **settings) as one,
        make_paybus(["webhook-gateway"], rabbitmq_url=one.layout.rabbitmq_url, **settings) as two,
    ):
        for paybus in (one, two):
            until(lambda: paybus.send(subscription_created("x")).status_code == 200, what="up")
        for paybus in (one, two):  # a gateway that has not reached the broker yet also responds 200
            until_spooled(paybus, 0)
        for first, second in ((one, two), (two, one)):
            way.line(Line.CUT)
            for number in range(10):
                assert first.send(subscription_created(f"shared-{number}")).status_code == 200
            first.system.processes["webhook-gateway"].stop()
            until_spooled(second, 10)
            way.line(Line.GOOD)
            until(lambda: spooled(second) == 0, what="the other hands it on")
            assert {f"evt_shared-{n}" for n in range(10)} <= set(queued(one))
            first.start("webhook-gateway")


def test_what_can_t_be_understood_goes_through_the_spool_to_the_dead_letters(
    paybus: Paybus, way: Proxy
) -> None:
    way.line(Line.CUT)
    assert paybus.send(b'{"no": "event"}').status_code == 200
    until_spooled(paybus, 1)
    way.line(Line.GOOD)
    until(lambda: spooled(paybus) == 0, what="it is handed on")
    dead_letters = f"queues/{paybus.virtual_host}/webhook-gateway.webhooks.dead"
    url = f"{paybus.management}/api/{dead_letters}/get"
    take = {"count": 10, "ackmode": "ack_requeue_false", "encoding": "auto"}
    (dead,) = paybus.http.post(url, json=take).json()
    assert dead["payload"] == '{"no": "event"}'
    assert dead["properties"]["headers"]["x-paybus-reason"] == "untranslatable"


def test_a_full_queue_holds_up_nothing_behind_it(
    paybus: Paybus, way: Proxy, tmp_path: Path
) -> None:
    """399 webhooks for a queue that rejects publishes, then 5 for others."""
    api, host = paybus.management, paybus.virtual_host
    arguments = {"x-max-length": 0, "x-overflow": "reject-publish"}
    nothing = {"durable": True, "arguments": arguments}
    paybus.http.put(f"{api}/api/queues/{host}/full", json=nothing).raise_for_status()
    binding = f"{api}/api/bindings/{host}/e/subscriptions/q/full"
    key = "provider_subscription.created"
    paybus.http.post(binding, json={"routing_key": key}).raise_for_status()
    way.line(Line.CUT)
    for number in range(399):
        assert paybus.send(subscription_created(f"full-{number}")).status_code == 200
    for number in range(5):
        other = subscription_created(f"open-{number}") | {"type": "customer.subscription.updated"}
        assert paybus.send(other).status_code == 200
    until_spooled(paybus, 404)
    way.line(Line.GOOD)
    until(lambda: spooled(paybus) == 399, what="the five are handed on")
    assert {f"evt_open-{number}" for number in range(5)} <= set(queued(paybus))
    paybus.http.delete(f"{api}/api/queues/{host}/full").raise_for_status()
    until(lambda: spooled(paybus) == 0, what="the rest goes on when there is room")


@pytest.mark.parametrize("when", ["before it starts", "while it runs"])
def test_a_damaged_file_is_set_aside_and_webhooks_are_taken_in(
    paybus: Paybus, way: Proxy, tmp_path: Path, when: str
) -> None:
    way.line(Line.CUT)
    assert paybus.send(subscription_created("lost")).status_code == 200
    process = paybus.system.processes["webhook-gateway"]
    if when == "before it starts":
        process.kill()
        process.wait()
    file = tmp_path / "spool.sqlite3"
    with file.open("r+b") as damaged:
        damaged.write(b"\xff" * 4096)
    for each in ("-wal", "-shm"):
        (tmp_path / f"{file.name}{each}").write_bytes(b"\xff" * 4096)
    if when == "before it starts":
        paybus.start("webhook-gateway")
    answered = [paybus.send(subscription_created(f"{number}")).status_code for number in range(3)]
    assert answered == [200, 200, 200]
    until(
        lambda: paybus.metric("webhook-gateway", "paybus_spools_damaged") == 1, what="it is counted"
    )
    assert "spool_file_damaged" in paybus.log("webhook-gateway")
    until_spooled(paybus, 3)
    way.line(Line.GOOD)
    until(lambda: spooled(paybus) == 0, what="they are handed on")
    assert {f"evt_{number}" for number in range(3)} <= set(queued(paybus))


async def test_what_is_removed_from_a_file_that_was_set_aside_is_not_another_message(
    tmp_path: Path,
) -> None:
    """Positions are never reused: a removal of the old ones may still be pending."""
    message = Spooled("payments", "payment.failed", b"{}", {}, "application/json")
    spool = Spool(tmp_path, most_bytes=1024**2)
    await spool.open()
    for _ in range(3):
        await spool.add(message)
    old = [position for position, _ in await spool.after(0)]
    (tmp_path / FILE).rename(tmp_path / f"{FILE}.damaged-1")
    await spool.add(message)
    await spool.remove(old)
    assert (await spool.measure())[0] == 1
    await spool.close()

"""The messaging core against faults of the broker and the database."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import pytest
from pamqp.common import FieldTable

from common.messaging import queue_recovery
from common.messaging.publisher import Properties, Publisher, Unroutable
from conftest import MakePaybus
from devstack.servers.rabbitmq import PrivateNode
from devstack.webhook import subscription_created
from support.paybus import Paybus, connected
from support.waiting import until

# The longest delay leaves time to declare a queue again, also on a busy machine: a refill request
# that returns before its queue exists waits in the broker for minutes.
_PATIENT_LADDER = "50ms,3s"


def _subscriptions(paybus: Paybus) -> int:
    count: int = paybus.sql("subscription", "SELECT count(*) FROM subscriptions")[0][0]
    return count


def _take_in_ten(paybus: Paybus) -> None:
    for _ in range(10):
        paybus.subscribe()
    until(lambda: _subscriptions(paybus) == 10, what="10 were taken in")


def _delete(paybus: Paybus, queue: str) -> None:
    url = f"{paybus.management}/api/queues/{paybus.virtual_host}/{queue}"
    assert paybus.http.delete(url).status_code == 204


def _refilled(paybus: Paybus) -> float:
    return paybus.metric("subscription-worker", "paybus_queue_recovered_events_total")


def test_a_queue_deleted_while_its_service_was_stopped_is_refilled_from_the_journal(
    make_paybus: MakePaybus,
) -> None:
    """Both its waiting messages and those published while it was missing are recovered."""
    services = ["webhook-gateway", "subscription-worker"]
    with make_paybus(services, RETRY_LADDER=_PATIENT_LADDER) as paybus:
        _take_in_ten(paybus)
        paybus.system.processes["subscription-worker"].stop()
        for _ in range(20):
            paybus.subscribe()
        _delete(paybus, "subscription.billing")
        for _ in range(5):
            paybus.subscribe()
        paybus.start("subscription-worker")
        until(lambda: _subscriptions(paybus) == 35, what="all are there")
        until(lambda: _refilled(paybus) == 25, what="only what was missing was copied")
        versions = paybus.sql("subscription", "SELECT DISTINCT version FROM subscriptions")
        assert versions == [(1,)]
        assert paybus.dead_letters() == {}


def test_a_queue_deleted_under_its_consumer_is_declared_again_and_refilled(
    make_paybus: MakePaybus,
) -> None:
    services = ["webhook-gateway", "subscription-worker"]
    with make_paybus(services, RETRY_LADDER=_PATIENT_LADDER) as paybus:
        _take_in_ten(paybus)
        _delete(paybus, "subscription.billing")
        for _ in range(20):
            paybus.subscribe()
        until(lambda: _subscriptions(paybus) == 30, what="all are there")
        assert paybus.dead_letters() == {}


def test_a_queue_is_bound_before_it_is_refilled(make_paybus: MakePaybus) -> None:
    """Otherwise events published between reading the journal and binding would be missed."""
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        _take_in_ten(paybus)
        url = (
            f"{paybus.management}/api/bindings/{paybus.virtual_host}/e/subscriptions"
            "/q/subscription.billing"
        )
        for binding in paybus.http.get(url).json():
            assert paybus.http.delete(f"{url}/{binding['properties_key']}").status_code == 204
        for _ in range(5):
            paybus.subscribe()
        paybus.publish("subscription.billing", "", headers=queue_recovery.recovery_headers())
        until(lambda: _refilled(paybus) == 5, what="what was missed was copied")
        paybus.subscribe()
        until(lambda: _subscriptions(paybus) == 16, what="and what came since is delivered")


def test_what_waited_in_a_retry_queue_that_was_deleted_comes_back_from_the_journal(
    make_paybus: MakePaybus,
) -> None:
    with make_paybus(["webhook-gateway", "subscription-worker"], RETRY_LADDER="8s,60s") as paybus:
        paybus.sql("subscription", "ALTER TABLE subscriptions RENAME TO away")
        for _ in range(10):
            paybus.subscribe()
        until(lambda: len(paybus.messages("retry.8s")) == 10, what="all wait")
        paybus.system.processes["subscription-worker"].stop()
        paybus.sql("subscription", "ALTER TABLE away RENAME TO subscriptions")
        _delete(paybus, "retry.8s")
        paybus.start("subscription-worker")
        until(lambda: _subscriptions(paybus) == 10, what="all are there")


def test_a_deleted_exchange_is_declared_again(make_paybus: MakePaybus) -> None:
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        paybus.subscribe()
        url = f"{paybus.management}/api/exchanges/{paybus.virtual_host}/subscriptions"
        assert paybus.http.delete(url).status_code == 204
        until(
            lambda: paybus.send(subscription_created(uuid4().hex)).status_code == 200,
            what="webhooks are accepted again",
        )
        until(lambda: _subscriptions(paybus) == 2, what="and taken in")


def test_what_the_inbox_has_forgotten_is_not_refilled(make_paybus: MakePaybus) -> None:
    """A stream deletes complete segments, so it may retain events for too long."""
    services = ["webhook-gateway", "subscription-worker"]
    with make_paybus(services, RETRY_LADDER=_PATIENT_LADDER) as paybus:
        paybus.subscribe()
        until(lambda: _subscriptions(paybus) == 1, what="it was taken in")
        (event,) = [
            each for each in paybus.journal() if each["type"] == "provider_subscription.created"
        ]
        paybus.system.processes["subscription-worker"].stop()
        old = event | {"id": "evt_old", "recordedtime": "2020-01-01T00:00:00Z"}
        missed = event | {"id": "evt_missed"}
        for each in (old, missed):
            paybus.publish_to("subscriptions", each["type"], json.dumps(each))
        _delete(paybus, "subscription.billing")
        paybus.start("subscription-worker")
        until(lambda: _refilled(paybus) == 1, what="one of the two was copied")
        query = "SELECT 1 FROM inbox WHERE id = %s"
        until(lambda: paybus.sql("subscription", query, "evt_missed"), what="it was taken in")
        assert paybus.sql("subscription", query, "evt_old") == []


def test_an_order_to_refill_that_fails_ends_as_a_dead_letter(make_paybus: MakePaybus) -> None:
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        paybus.subscribe()
        paybus.publish("subscription.billing", "", headers={"x-paybus-refill": "no offset"})
        (dead,) = until(
            lambda: paybus.messages("subscription.billing.dead"), what="it is a dead letter"
        )
        assert dead["headers"]["x-paybus-reason"] == "exhausted"
        assert dead["headers"]["x-paybus-refill"] == "no offset", (
            "replayed, it is the same order again"
        )
        assert "can't be recovered" in dead["headers"]["x-paybus-error"]
        paybus.subscribe()
        until(lambda: _subscriptions(paybus) == 2, what="the consumer goes on meanwhile")


def test_inbox_rows_older_than_the_journal_are_removed_and_others_stay(
    make_paybus: MakePaybus,
) -> None:
    with make_paybus() as paybus:
        paybus.sql(
            "subscription",
            "INSERT INTO inbox SELECT 'q', 's', n::text, now() - make_interval(hours => n) "
            "FROM generate_series(1, 12000) AS n",
        )
        paybus.start("subscription-worker")
        until(
            lambda: paybus.sql("subscription", "SELECT count(*) FROM inbox") == [(8 * 24 - 1,)],
            what="those older than 8 days are gone",
        )


async def test_what_can_not_be_encoded_shifts_no_confirm(make_paybus: MakePaybus) -> None:
    """Confirms are numbered by what the broker receives: a wrong count would confirm a message by
    its neighbour's confirm."""
    with make_paybus() as paybus:
        async with connected(paybus.layout.rabbitmq_url) as broker:
            publisher = Publisher(broker, timeout=20)
            channel = await broker.channel(within=20)
            full: FieldTable = {"x-max-length": 0, "x-overflow": "reject-publish"}
            await channel.declare_queue("full", arguments=full)
            for bad in ({"x": "\ud800"}, {"x": 2**70}):
                with pytest.raises(Exception, match=r"surrogates|numeric"):
                    await publisher.publish("", "subscription.billing", b"{}", headers=bad)
            refused, taken = ("", "full", b"{}"), ("", "subscription.billing", b"{}")
            outcomes = await publisher.publish_all([refused, refused, taken, taken])
        assert [outcome is None for outcome in outcomes] == [False, False, True, True]


async def test_a_message_returned_too_late_leaves_the_channel_usable(
    make_paybus: MakePaybus,
) -> None:
    with make_paybus() as paybus:
        async with connected(paybus.layout.rabbitmq_url) as broker:
            channel = await broker.confirm_channel()
            channel.publish(b"{}", "", "no.such.queue", Properties()).cancel()
            confirmed = channel.publish(b"{}", "", "subscription.billing", Properties())
            async with asyncio.timeout(20):
                await confirmed
            assert not channel.is_closed


async def test_a_publish_that_no_queue_takes_is_an_error_and_its_neighbours_are_not(
    make_paybus: MakePaybus,
) -> None:
    """An unroutable message in one write with others, small and larger than a frame."""
    with make_paybus() as paybus:
        async with connected(paybus.layout.rabbitmq_url) as broker:
            publisher = Publisher(broker, timeout=20)
            bodies = [b"{}", b"x" * 300_000, b""] * 30
            messages = [("", "subscription.billing", body) for body in bodies]
            messages[10] = ("", "no.such.queue", b"{}")
            outcomes = await publisher.publish_all(messages)
            with pytest.raises(Unroutable, match=r"no\.such\.queue"):
                await publisher.publish("", "no.such.queue", b"{}")
        failed = [number for number, outcome in enumerate(outcomes) if outcome is not None]
        assert failed == [10]
        assert isinstance(outcomes[10], Unroutable)
        del bodies[10]
        queued = await asyncio.to_thread(paybus.messages, "subscription.billing")
        assert [len(each["payload"]) for each in queued] == [len(body) for body in bodies]


def test_a_memory_alarm_answers_503_in_bounded_time_and_consumers_go_on(
    make_paybus: MakePaybus, node: PrivateNode
) -> None:
    with make_paybus(["webhook-gateway"], rabbitmq_url=node.address.url) as paybus:
        for _ in range(50):
            paybus.subscribe()
        node.control("set_vm_memory_high_watermark", "absolute", "1")
        try:
            answers = [paybus.send(subscription_created(uuid4().hex)) for _ in range(3)]
            assert {answer.status_code for answer in answers} == {503}
            assert max(answer.elapsed.total_seconds() for answer in answers) < 3
            paybus.start("subscription-worker")
            until(lambda: _subscriptions(paybus) >= 50, what="what was queued is taken in")
            log = paybus.system.processes["subscription-worker"].log
            until(
                lambda: "blocks publishers (a memory or disk alarm)" in log.read_text(),
                what="outbox_publish_blocked, and says why",
            )
        finally:
            node.control("set_vm_memory_high_watermark", "0.6")
        until(
            lambda: paybus.send(subscription_created(uuid4().hex)).status_code == 200,
            what="webhooks are accepted again",
        )
        until(
            lambda: paybus.sql("subscription", "SELECT count(*) FROM outbox") == [(0,)],
            what="the outbox leaves",
        )

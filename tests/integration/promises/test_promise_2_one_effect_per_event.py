"""Promise 2: crashes, redeliveries, duplicates and replays have no further effect."""

from __future__ import annotations

import json
import signal
from uuid import uuid4

from conftest import MakePaybus
from devstack.webhook import subscription_created
from support.paybus import Paybus
from support.waiting import until

PROCESSES = [
    "webhook-gateway",
    "subscription-worker",
    "provisioning-worker",
    "sandbox-backend",
]


def _versions(paybus: Paybus) -> dict[str, int]:
    rows = paybus.sql("subscription", "SELECT provider_subscription_id, version FROM subscriptions")
    return dict(rows)


def _duplicates(paybus: Paybus) -> float:
    return paybus.metric(
        "subscription-worker",
        "paybus_messages_consumed_total",
        queue="subscription.billing",
        outcome="duplicate",
    )


def _nothing_in_hand(paybus: Paybus) -> bool:
    """Return whether no message waits in a queue, on the retry ladder or in an outbox."""
    outboxes = [
        paybus.sql(service, "SELECT count(*) FROM outbox")[0][0]
        for service in ("subscription", "provisioning")
    ]
    return not paybus.waiting() and outboxes == [0, 0]


def test_promise_2_a_webhook_sent_many_times_has_one_effect(make_paybus: MakePaybus) -> None:
    with make_paybus(PROCESSES) as paybus:
        webhooks = [subscription_created(uuid4().hex) for _ in range(20)]
        for _ in range(5):
            for webhook in webhooks:
                assert paybus.send(webhook).status_code == 200
        until(lambda: len(paybus.books()["organizations"]) == 20, what="20 organizations")
        until(lambda: _duplicates(paybus) == 80, what="80 duplicates were recognised")
        until(lambda: _nothing_in_hand(paybus), what="everything is done")
        assert set(_versions(paybus).values()) == {1}, "one event told per subscription"
        assert set(paybus.books()["created"].values()) == {1}
        assert [len(users) for users in paybus.books()["users"].values()] == [1] * 20


def test_promise_2_a_worker_killed_between_commit_and_ack_redelivers_without_effect(
    make_paybus: MakePaybus,
) -> None:
    """The worker is killed repeatedly in the middle of its work; each event has one effect."""
    with make_paybus(["webhook-gateway"], CONSUMER_BATCH="20") as paybus:
        for _ in range(300):
            paybus.subscribe()
        for _ in range(4):
            worker = paybus.system.start_one(paybus.layout.spec("subscription-worker"))
            before = len(_versions(paybus))
            until(lambda: len(_versions(paybus)) > before, what="the worker commits", pause=0.005)
            worker.kill(signal.SIGKILL)
            worker.wait()
        paybus.start("subscription-worker")
        until(lambda: len(_versions(paybus)) == 300, what="300 subscriptions")
        until(
            lambda: (
                paybus.depths()["subscription.billing"] == 0
                and paybus.sql("subscription", "SELECT count(*) FROM outbox")[0][0] == 0
            ),
            what="queue and outbox are empty",
        )
        assert set(_versions(paybus).values()) == {1}
        told = [json.loads(m["payload"]) for m in paybus.messages("provisioning.subscriptions")]
        activated = {m["subject"] for m in told if m["type"] == "subscription.activated"}
        ids = {m["id"] for m in told if m["type"] == "subscription.activated"}
        assert len(activated) == len(ids) == 300, "a second telling would carry a second id"


def test_promise_2_replayed_events_change_nothing(make_paybus: MakePaybus) -> None:
    """Publish the same bodies to the queue again, as an operator's replay does."""
    with make_paybus(["webhook-gateway"]) as paybus:
        for _ in range(10):
            paybus.subscribe()
        bodies = [m["payload"] for m in paybus.messages("subscription.billing")]
        paybus.start("subscription-worker")
        until(lambda: len(_versions(paybus)) == 10, what="10 subscriptions")
        for body in bodies * 3:
            paybus.publish("subscription.billing", body)
        until(lambda: _duplicates(paybus) == 30, what="30 duplicates were recognised")
        assert set(_versions(paybus).values()) == {1}

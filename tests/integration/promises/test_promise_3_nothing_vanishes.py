"""Promise 3: unconsumed, undecodable, poisonous, exhausted: each is a visible dead letter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest

from common.contracts.topology import WEBHOOKS
from conftest import MakePaybus
from devstack.webhook import subscription_created
from support.paybus import Paybus
from support.waiting import until


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        yield paybus


def test_promise_3_signed_but_not_json_is_answered_2xx_and_dead_lettered(paybus: Paybus) -> None:
    assert paybus.send(b"signed, but no JSON").status_code == 200
    (dead,) = until(lambda: paybus.messages(WEBHOOKS.dead, remove=True), what="a dead letter")
    assert dead["payload"] == "signed, but no JSON"
    assert dead["headers"]["x-paybus-reason"] == "untranslatable"
    assert dead["headers"]["x-paybus-endpoint"] == "stripe/default"
    assert "not JSON" in dead["headers"]["x-paybus-error"]


def test_promise_3_a_known_type_of_an_unknown_shape_is_dead_lettered(paybus: Paybus) -> None:
    webhook = subscription_created("misshapen")
    del webhook["data"]["object"]["customer"]
    assert paybus.send(webhook).status_code == 200
    (dead,) = until(lambda: paybus.messages(WEBHOOKS.dead, remove=True), what="a dead letter")
    assert json.loads(dead["payload"]) == webhook
    assert "customer" in dead["headers"]["x-paybus-error"]


@pytest.mark.parametrize(
    "body",
    ["no JSON at all", '{"type": "payment.succeeded"}', "[]", ""],
)
def test_promise_3_a_message_that_cannot_be_decoded_goes_to_the_dead_letters_at_once(
    paybus: Paybus, body: str
) -> None:
    paybus.publish("subscription.billing", body)
    (dead,) = until(
        lambda: paybus.messages("subscription.billing.dead", remove=True), what="a dead letter"
    )
    assert dead["payload"] == body
    headers = dead["headers"]
    assert headers["x-paybus-reason"] == "undecodable"
    assert headers["x-paybus-queue"] == "subscription.billing"
    assert headers["x-paybus-error"].startswith("DecodeError: ")
    assert "Traceback" in headers["x-paybus-stack"] or "DecodeError" in headers["x-paybus-stack"]
    assert len(json.loads(headers["x-paybus-history"])) == 1


@pytest.mark.parametrize("new", ["type", "word"])
def test_promise_3_what_a_newer_version_may_know_climbs_the_ladder_first(
    paybus: Paybus, new: str
) -> None:
    """During a rollout, old replicas receive events that only new ones understand."""
    event = {
        "specversion": "1.0",
        "id": uuid4().hex,
        "source": "/x",
        "subject": "x",
        "tenant": "default",
        "correlationid": "x",
        "time": "2026-11-01T00:00:00Z",
        "recordedtime": "2026-11-01T00:00:00Z",
        "trust": "signature",
        "type": "no.such.type" if new == "type" else "provider_subscription.updated",
        "data": {
            "provider": "stripe",
            "subscription_id": "sub_1",
            "customer_id": "cus_1",
            "status": "hibernating",
            "plan": None,
            "current_period_end": None,
            "cancel_at_period_end": False,
        },
    }
    paybus.publish("subscription.billing", json.dumps(event))
    (dead,) = until(
        lambda: paybus.messages("subscription.billing.dead", remove=True), what="a dead letter"
    )
    assert dead["headers"]["x-paybus-reason"] == "undecodable"
    history = json.loads(dead["headers"]["x-paybus-history"])
    assert [each["attempt"] for each in history] == [1, 2, 3, 4, 5, 6]
    assert ("no.such.type" if new == "type" else "data.status") in history[0]["error"]


def test_promise_3_a_poisonous_message_ends_dead_and_its_neighbours_do_not(
    paybus: Paybus,
) -> None:
    poison = subscription_created("poison")
    # PostgreSQL cannot store NUL, which passes every check before the database.
    poison["data"]["object"]["metadata"]["organization"] = "\x00"
    neighbours = [subscription_created(f"neighbour-{n}") for n in range(30)]
    paybus.system.processes["subscription-worker"].stop()
    for webhook in [*neighbours[:15], poison, *neighbours[15:]]:
        assert paybus.send(webhook).status_code == 200
    paybus.start("subscription-worker")
    query = (
        "SELECT count(*) FROM subscriptions WHERE provider_subscription_id LIKE 'sub_neighbour%'"
    )
    until(lambda: paybus.sql("subscription", query)[0][0] == 30, what="30 neighbours")
    (dead,) = until(
        lambda: paybus.messages("subscription.billing.dead", remove=True), what="a dead letter"
    )
    assert json.loads(dead["payload"])["id"] == "evt_poison"
    assert dead["headers"]["x-paybus-reason"] == "permanent"
    assert paybus.depths()["subscription.billing"] == 0


def test_promise_3_an_unknown_webhook_type_is_kept_in_the_journal(paybus: Paybus) -> None:
    webhook = {
        "id": "evt_kept",
        "object": "event",
        "type": "radar.early_fraud_warning.created",
        "created": 1_790_000_000,
        "data": {"object": {"id": "issfr_1", "object": "radar.early_fraud_warning"}},
    }
    assert paybus.send(webhook).status_code == 200
    kept = until(
        lambda: [e for e in paybus.journal() if e["id"] == "evt_kept"], what="it is in the journal"
    )
    assert kept[0]["type"] == "provider.stripe.radar.early_fraud_warning.created"
    assert kept[0]["data"]["body"] == webhook

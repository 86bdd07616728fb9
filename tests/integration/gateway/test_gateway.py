"""The gateway rejects bad input and publishes nothing for it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from conftest import MakePaybus
from devstack.endpoints import SECRETS
from devstack.webhook import signature, subscription_created
from support.paybus import Paybus


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(["webhook-gateway"]) as paybus:
        yield paybus


def _nothing_was_published(paybus: Paybus) -> bool:
    return paybus.depths()["subscription.billing"] == 0 and paybus.dead_letters() == {}


BODY = json.dumps(subscription_created("refused")).encode()


@pytest.mark.parametrize(
    ("secret", "shift", "reason"),
    [
        (None, 0, "header is missing"),
        ("whsec_wrong", 0, "does not match"),
        (SECRETS["stripe"], -1000, "300 s old"),
        (SECRETS["stripe"], 1000, "300 s in the future"),
    ],
    ids=["missing", "wrong", "old", "early"],
)
def test_a_bad_signature_is_answered_400_with_a_problem_document(
    paybus: Paybus, secret: str | None, shift: int, reason: str
) -> None:
    header = signature(BODY, secret, int(time.time()) + shift) if secret else ""
    answer = paybus.send(BODY, **{"Stripe-Signature": header})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 400
    assert problem["title"] == "Bad Request"
    assert reason in problem["detail"]
    assert SECRETS["stripe"] not in answer.text
    assert _nothing_was_published(paybus)


def test_no_signature_at_all(paybus: Paybus) -> None:
    url = f"{paybus.layout.url('webhook-gateway')}/webhooks/stripe"
    answer = paybus.http.post(url, content=BODY)
    assert answer.status_code == 400
    assert "missing" in answer.json()["detail"]


def test_a_body_that_is_not_utf8_is_refused(paybus: Paybus) -> None:
    assert paybus.send(b"\xff\xfe").status_code == 400


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_one_mebibyte_is_answered_413(paybus: Paybus, declared: bool) -> None:
    body = b"x" * (1024 * 1024 + 1)
    url = f"{paybus.layout.url('webhook-gateway')}/webhooks/stripe"
    content = body if declared else (body[i : i + 65536] for i in range(0, len(body), 65536))
    answer = paybus.http.post(url, content=content)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert _nothing_was_published(paybus)


def test_a_body_of_one_mebibyte_is_taken(paybus: Paybus) -> None:
    webhook = subscription_created("large")
    webhook["padding"] = ""
    webhook["padding"] = "x" * (1024 * 1024 - len(json.dumps(webhook)))
    body = json.dumps(webhook).encode()
    assert len(body) == 1024 * 1024
    assert paybus.send(body).status_code == 200
    (message,) = paybus.messages("subscription.billing", remove=True)
    assert json.loads(message["payload"])["id"] == "evt_large"


def test_an_unknown_provider_and_other_methods(paybus: Paybus) -> None:
    base = paybus.layout.url("webhook-gateway")
    answer = paybus.http.post(f"{base}/webhooks/nobody", content=b"{}")
    assert answer.status_code == 404
    assert "no webhooks are served" in answer.json()["detail"]
    answer = paybus.http.get(f"{base}/webhooks/stripe")
    assert answer.status_code == 405
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_caller_that_goes_away_in_the_middle_harms_nobody(paybus: Paybus) -> None:
    port = paybus.layout.ports["webhook-gateway"]
    with socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    assert paybus.send(subscription_created("after-half")).status_code == 200
    paybus.messages("subscription.billing", remove=True)


def test_the_event_is_published_as_it_was_received(paybus: Paybus) -> None:
    webhook = subscription_created("whole")
    assert paybus.send(webhook).status_code == 200
    (message,) = paybus.messages("subscription.billing", remove=True)
    event = json.loads(message["payload"])
    assert event["id"] == event["correlationid"] == "evt_whole"
    assert event["type"] == "provider_subscription.created"
    assert event["trust"] == "signature"
    assert event["data"]["metadata"] == webhook["data"]["object"]["metadata"]


def test_health_and_metrics(paybus: Paybus) -> None:
    base = paybus.layout.url("webhook-gateway")
    assert paybus.http.get(f"{base}/healthz").json() == {"status": "ok"}
    assert paybus.http.get(f"{base}/readyz").json() == {"status": "ok"}
    counted = paybus.metric(
        "webhook-gateway",
        "paybus_webhook_duration_seconds_count",
        provider="stripe",
        outcome="published",
    )
    assert counted > 0

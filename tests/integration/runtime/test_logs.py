"""The log answers: one line for each webhook, effect and external call, with the payment's id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from devstack.endpoints import SECRETS
from devstack.webhook import signature, subscription_created
from support.paybus import Paybus
from support.waiting import trouble_lasts, until


def _lines(paybus: Paybus, process: str, message: str, **fields: Any) -> list[dict[str, Any]]:
    """Wait for lines: each is written after what it reports."""

    def found() -> list[dict[str, Any]]:
        text = paybus.system.processes[process].log.read_text()
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        said = [line for line in lines if line["message"] == message]
        return [line for line in said if fields.items() <= line.items()]

    return until(found, what=f"{process} logs {message}")


def test_a_webhook_can_be_followed_through_the_logs(whole_paybus: Paybus) -> None:
    number = whole_paybus.subscribe()
    ids = {"correlation_id": f"evt_{number}", "tenant": "default"}
    (received,) = _lines(whole_paybus, "webhook-gateway", "webhook_received", **ids)
    assert received["endpoint"] == "stripe/default"
    assert received["outcome"] == "published"
    assert received["event_id"] == f"evt_{number}"
    assert received["event_type"] == "provider_subscription.created"
    assert received["duration_ms"] > 0

    def last() -> list[dict[str, Any]]:
        return _lines(whole_paybus, "provisioning-worker", "event_handled", **ids)

    until(lambda: len(last()) == 3, what="the customer, the activation and the organization")
    handled = _lines(whole_paybus, "subscription-worker", "event_handled", **ids)
    assert [line["queue"] for line in handled] == ["subscription.billing"]
    assert {line["queue"] for line in last()} == {
        "provisioning.subscriptions",
        "provisioning.organizations",
    }
    calls = _lines(whole_paybus, "provisioning-worker", "external_call", **ids)
    assert calls
    assert {(line["system"], line["outcome"]) for line in calls} == {("the back end", "succeeded")}
    for line in (*handled, *last(), *calls):
        assert line["duration_ms"] > 0


def test_a_refused_webhook_is_one_line_with_the_reason(whole_paybus: Paybus) -> None:
    body = json.dumps(subscription_created("forged")).encode()
    whole_paybus.send(body, **{"Stripe-Signature": "t=1,v1=0"})
    (line,) = _lines(whole_paybus, "webhook-gateway", "webhook_received", outcome="refused")
    assert "does not match" in line["reason"]
    assert "event_id" not in line, "nothing that an unauthenticated body says is logged"


def test_a_slow_webhook_is_a_warning(whole_paybus: Paybus) -> None:
    body = json.dumps(subscription_created("slow")).encode()

    def slowly() -> Iterator[bytes]:
        yield body[:10]
        trouble_lasts(2.1)
        yield body[10:]

    url = f"{whole_paybus.layout.url('webhook-gateway')}/webhooks/stripe"
    signed = {"Stripe-Signature": signature(body, SECRETS["stripe"])}
    answer = whole_paybus.http.post(url, content=slowly(), headers=signed)
    assert answer.status_code == 200
    lines = _lines(whole_paybus, "webhook-gateway", "webhook_received", level="warning")
    assert lines[-1]["duration_ms"] > 2000

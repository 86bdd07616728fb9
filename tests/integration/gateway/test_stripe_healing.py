"""Promise 8 for Stripe: missed webhooks are read from its event list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from conftest import MakePaybus
from devstack.endpoints import SECRETS
from support.paybus import Paybus
from support.waiting import until

PROCESSES = ["sandbox-stripe", "webhook-gateway", "webhook-gateway-worker"]
KEY = "sk_test_12345"


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(
        PROCESSES, STRIPE_BACKFILL_DELAY_SECONDS="3", STRIPE_BACKFILL_INTERVAL_SECONDS="1"
    ) as paybus:
        until(lambda: _cursor(paybus), what="the event list is read from now on")
        yield paybus


def test_events_whose_webhooks_never_came_are_published_once(paybus: Paybus) -> None:
    customer = _stripe(paybus, "customers", email="a@example.com")
    until(lambda: _published(paybus, customer["id"]), what="it is healed")
    _two_more_looks(paybus)
    (event,) = _published(paybus, customer["id"])
    assert event["trust"] == "requery"
    assert event["source"] == "/webhook-gateway/stripe"
    assert event["data"]["contact"]["email"] == "a@example.com"


def test_what_came_by_webhook_is_not_published_again(paybus: Paybus) -> None:
    hook = {
        "url": f"{paybus.layout.url('webhook-gateway')}/webhooks/stripe",
        "secret": SECRETS["stripe"],
    }
    url = f"{paybus.layout.url('sandbox-stripe')}/_config/webhooks/paybus"
    paybus.http.post(url, json=hook).raise_for_status()
    customer = _stripe(paybus, "customers", email="b@example.com")
    until(lambda: _published(paybus, customer["id"]), what="its webhook came")
    _two_more_looks(paybus)
    assert len(_published(paybus, customer["id"])) == 1


def test_nobody_can_make_the_healer_believe_that_it_knows_an_event(paybus: Paybus) -> None:
    """Send bodies that contain a Stripe event's fields, or that cannot be parsed."""
    for name, secret in (("victim", "id"), ("deep", "nested")):
        value = "[" * 150 + "]" * 150 if secret == "nested" else '"x"'
        body = (
            f'{{"event": "other.{name}", "id": "evt_{name}", "source":"/webhook-gateway/stripe", '
            f'"data": {{"id": 1, "status": "x"}}, "more": {value}}}'
        ).encode()
        sent = paybus.call("flutterwave", body, {"verif-hash": SECRETS["flutterwave"]})
        assert sent.status_code == 200
    customer = _stripe(paybus, "customers", email="c@example.com")
    until(lambda: _published(paybus, customer["id"]), what="it is healed all the same")
    assert paybus.system.processes["webhook-gateway-worker"].is_running()


def _stripe(paybus: Paybus, kind: str, **fields: Any) -> dict[str, Any]:
    url = f"{paybus.layout.url('sandbox-stripe')}/v1/{kind}"
    made = paybus.http.post(url, data=fields, auth=(KEY, "")).raise_for_status()
    found: dict[str, Any] = made.json()
    return found


def _published(paybus: Paybus, customer: str) -> list[dict[str, Any]]:
    return [
        each
        for each in paybus.journal()
        if each["type"] == "provider_customer.updated" and each["data"]["customer_id"] == customer
    ]


def _cursor(paybus: Paybus) -> list[tuple[Any, ...]]:
    return paybus.sql("webhook-gateway", "SELECT read_to FROM stripe_event_cursors")


def _two_more_looks(paybus: Paybus) -> None:
    """Wait until the list was read twice beyond this moment, grace included."""
    (now,) = paybus.sql("webhook-gateway", "SELECT now()")[0]
    for _ in range(2):
        until(lambda: _cursor(paybus)[0][0] > now, what="it is read beyond now")
        (now,) = paybus.sql("webhook-gateway", "SELECT now()")[0]

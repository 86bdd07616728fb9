"""Checkouts at Stripe: sessions that are paid, unpaid, or unrelated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import stripe

from conftest import MakePaybus
from devstack.endpoints import SECRETS
from support.checkouts import order, post, read, start, until_status, until_subscription
from support.paybus import Paybus
from support.waiting import until

_PROCESSES = ["sandbox-stripe", "webhook-gateway", "subscription-api", "subscription-worker"]


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(_PROCESSES) as paybus:
        yield paybus


@pytest.fixture(scope="module")
def stripe_url(paybus: Paybus) -> str:
    """Return the URL of a Stripe that has a plan `pro` and calls the gateway."""
    base = paybus.layout.url("sandbox-stripe")
    hook = {"url": f"{paybus.layout.url('webhook-gateway')}/webhooks/stripe"}
    hook["secret"] = SECRETS["stripe"]
    paybus.http.post(f"{base}/_config/webhooks/paybus", json=hook).raise_for_status()
    client = stripe.StripeClient("sk_test_shop", base_addresses={"api": base})
    plan: Any = {"id": "pro", "amount": 1500, "currency": "eur", "interval": "month"}
    client.v1.plans.create(plan | {"product": {"name": "Pro"}})
    return base


PRO = {"plan": {"plan_id": "pro"}, "amount": None, "currency": None}


def test_a_stripe_session_that_is_paid_is_a_paid_checkout_and_stripe_s_subscription(
    paybus: Paybus, stripe_url: str
) -> None:
    checkout = start(paybus, order("stripe", **PRO))
    assert checkout["reference"] in checkout["url"]
    assert (checkout["amount"], checkout["currency"]) == (1500, "EUR")
    paid = f"{stripe_url}/_config/checkout/{checkout['reference']}/pay"
    paybus.http.post(paid).raise_for_status()
    until_status(paybus, checkout, "paid")
    subscription_id = read(paybus, "checkouts", checkout["id"])["subscription_id"]
    subscription = until_subscription(paybus, {"subscription_id": subscription_id}, "active")
    assert subscription["provider"] == "stripe"


def test_another_session_that_names_the_checkout_pays_nothing(paybus: Paybus) -> None:
    """A payer can choose the client reference of a payment link: one euro must not pay for 5000."""
    checkout = start(paybus, order("stripe", plan=None, amount=500_000, currency="EUR"))
    session = {
        "id": "cs_of_a_payment_link",
        "mode": "payment",
        "payment_status": "paid",
        "customer": None,
        "amount_total": 100,
        "currency": "eur",
        "client_reference_id": checkout["id"],
        "metadata": {},
    }
    event: dict[str, Any] = {"id": "evt_link", "object": "event"}
    event |= {"type": "checkout.session.completed"}
    event |= {"created": int(time.time()), "data": {"object": session}}
    assert paybus.send(event).status_code == 200
    mine = session | {"id": checkout["reference"], "amount_total": 499_999}
    assert paybus.send(event | {"id": "evt_less", "data": {"object": mine}}).status_code == 200
    until_status(paybus, checkout, "underpaid")
    error = read(paybus, "checkouts", checkout["id"])["error"]
    assert error == "paid 499999 EUR, not 500000 EUR (minor units)"


def test_a_session_paid_for_a_checkout_that_is_forgotten_waits_for_it(paybus: Paybus) -> None:
    """docs/runbooks/restore.md: nothing else reports a single payment at Stripe."""
    request, key = order("stripe", plan=None, amount=500, currency="EUR"), uuid4().hex
    checkout = start(paybus, request, key=key)
    paybus.sql("subscription", "DELETE FROM checkouts WHERE id = %s", checkout["id"])
    session = {
        "id": checkout["reference"],
        "mode": "payment",
        "payment_status": "paid",
        "customer": None,
        "amount_total": 500,
        "currency": "eur",
        "metadata": {"paybus_checkout": checkout["id"]},
    }
    event: dict[str, Any] = {"id": f"evt_{key}", "object": "event", "created": int(time.time())}
    event |= {"type": "checkout.session.completed", "data": {"object": session}}
    assert paybus.send(event).status_code == 200
    dead = {"subscription.billing.dead": 1}
    until(lambda: paybus.dead_letters() == dead, what="people see that it was paid")
    assert start(paybus, request, key=key)["reference"] == checkout["reference"]
    assert paybus.send(event).status_code == 200
    until_status(paybus, checkout, "paid")
    # Stripe deletes keys after a day; the checkout then has another session.
    other = session | {"id": "cs_of_a_day_before"}
    assert paybus.send(event | {"id": "evt_before", "data": {"object": other}}).status_code == 200
    until(lambda: paybus.dead_letters() == {"subscription.billing.dead": 2}, what="seen, too")


def test_a_currency_that_stripe_counts_otherwise_is_paid_in_full(
    paybus: Paybus, stripe_url: str
) -> None:
    """https://docs.stripe.com/currencies#special-cases"""
    checkout = start(paybus, order("stripe", plan=None, amount=500, currency="ISK"))
    assert (checkout["amount"], checkout["currency"]) == (500, "ISK")
    session = f"{stripe_url}/v1/checkout/sessions/{checkout['reference']}"
    there = paybus.http.get(session, auth=("sk_test_paybus", "")).json()
    assert there["amount_total"] == 50_000
    paid = f"{stripe_url}/_config/checkout/{checkout['reference']}/pay"
    paybus.http.post(paid).raise_for_status()
    until_status(paybus, checkout, "paid")
    refused = post(paybus, order("stripe", plan=None, amount=12_345, currency="KWD"))
    assert (refused.status_code, "multiples of 10" in refused.text) == (400, True)


def test_a_stripe_session_that_nobody_completes_expires(paybus: Paybus, stripe_url: str) -> None:
    checkout = start(paybus, order("stripe", **PRO))
    gone = f"{stripe_url}/_config/checkout/{checkout['reference']}/expire"
    paybus.http.post(gone).raise_for_status()
    until_status(paybus, checkout, "expired")


def test_a_price_that_stripe_does_not_know_is_a_refusal(paybus: Paybus, stripe_url: str) -> None:
    answer = post(paybus, order("stripe", **PRO | {"plan": {"plan_id": "unknown"}}))
    assert (answer.status_code, "stripe answers" in answer.json()["detail"]) == (422, True)

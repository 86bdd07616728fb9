"""Stripe's stand-ins match Stripe's description, and Paybus reads only described fields of
responses and webhooks. Source: the official SDK, which is generated from Stripe's OpenAPI file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import pytest
import stripe as sdk
from pydantic import HttpUrl, SecretStr

from common.clients.stripe import stripe_client
from conftest import MakePaybus
from subscription.providers.stripe_billing import StripeBilling
from subscription.schemas.billing import (
    ApplyCoupon,
    Attempt,
    Cancel,
    ChangePlan,
    CommandRequest,
    NewSubscription,
    Resume,
    SetDefault,
)
from support import payouts
from support.billing import a_card, move, offer, stripe
from support.described import Path, Read, faults, knows
from support.described.stripe_types import shape
from support.mailbox import Mailbox, listening
from support.paybus import Paybus
from support.providers import a_provider
from support.waiting import until
from webhook_gateway.providers.base import Authentication

_KINDS = {
    "billing_portal.session": sdk.billing_portal.Session,
    "charge": sdk.Charge,
    "checkout.session": sdk.checkout.Session,
    "coupon": sdk.Coupon,
    "customer": sdk.Customer,
    "dispute": sdk.Dispute,
    "invoice": sdk.Invoice,
    "invoice_payment": sdk.InvoicePayment,
    "payment_intent": sdk.PaymentIntent,
    "payment_method": sdk.PaymentMethod,
    "payout": sdk.Payout,
    "plan": sdk.Plan,
    "price": sdk.Price,
    "product": sdk.Product,
    "refund": sdk.Refund,
    "subscription_item": sdk.SubscriptionItem,
    "setup_intent": sdk.SetupIntent,
    "subscription": sdk.Subscription,
    "subscription_schedule": sdk.SubscriptionSchedule,
    "transfer": sdk.Transfer,
    "webhook_endpoint": sdk.WebhookEndpoint,
}
# Names before 2025-03-31 and 2025-09-30 (https://docs.stripe.com/changelog, basil and clover):
# webhooks have the version of their endpoint, responses that of the account if the SDK is older.
_FORMER: Mapping[str, set[Path]] = {
    "charge": {("invoice",)},
    "invoice": {("subscription",), ("payment_intent",), ("charge",), ("paid_out_of_band",)},
    "payment_intent": {("charges",)},
    "subscription": {("current_period_end",), ("plan",), ("discounts", "[]", "coupon")},
}
_AUTHORIZED = {"Authorization": "Bearer sk_test_x"}


@pytest.fixture(scope="module")
def mailbox() -> Iterator[Mailbox]:
    with listening() as mailbox:
        yield mailbox


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus, mailbox: Mailbox) -> Iterator[Paybus]:
    with make_paybus(["sandbox-providers", "sandbox-stripe"]) as paybus:
        hook = {"url": f"{mailbox.url}/stripe", "secret": "whsec_x"}
        base = paybus.layout.url("sandbox-stripe")
        paybus.http.post(f"{base}/_config/webhooks/x", json=hook).raise_for_status()
        urls = {"stripe-payouts": f"{mailbox.url}/stripe"}
        payouts.sandbox(paybus, "PUT", "/_delivery", urls=urls)
        offer(paybus)
        yield paybus


@pytest.fixture(scope="module")
def shop(paybus: Paybus) -> dict[str, Any]:
    """Create one object of every kind; return a customer, their subscription, and all responses."""
    customer = stripe(paybus, "POST", "customers", email="ama@example.com", name="Ama")["id"]
    chosen = {"invoice_settings[default_payment_method]": a_card(paybus, customer)}
    stripe(paybus, "POST", f"customers/{customer}", **chosen)
    gold = {"items[0][price]": "gold", "discounts[0][coupon]": "half"}
    name = stripe(paybus, "POST", "subscriptions", customer=customer, **gold)["id"]
    stripe(paybus, "POST", f"subscriptions/{name}", cancel_at_period_end="true")
    move(paybus, name, status="paused")
    move(paybus, name, status="active")
    trial = {"items[0][price]": "silver", "trial_period_days": 14}
    over = stripe(paybus, "POST", "subscriptions", customer=customer, **trial)["id"]
    session = _checkout(paybus, "pay")
    refund = {"payment_intent": session["payment_intent"], "amount": 100}
    portal = {"customer": customer, "return_url": "https://shop.example.com/"}
    selected = {"url": f"{paybus.layout.url('sandbox-stripe')}/none", "enabled_events[0]": "ping"}
    answers = [
        stripe(paybus, "POST", "webhook_endpoints", **selected),
        session,
        _checkout(paybus, "expire"),
        stripe(paybus, "POST", "subscription_schedules", from_subscription=name),
        stripe(paybus, "POST", "setup_intents", customer=customer),
        (refunded := stripe(paybus, "POST", "refunds", **refund)),
        stripe(paybus, "POST", "subscription_items", subscription=over, price="gold", quantity=2),
        stripe(paybus, "POST", "billing_portal/sessions", **portal),
        stripe(paybus, "GET", f"subscriptions/{name}?expand[]=discounts"),
        stripe(paybus, "GET", "coupons/half"),
        stripe(paybus, "GET", "prices/gold"),
        stripe(paybus, "GET", f"payment_methods?customer={customer}&type=card"),
    ]
    stripe(paybus, "DELETE", f"subscriptions/{over}")
    base = paybus.layout.url("sandbox-stripe")
    failed = f"{base}/_config/refunds/{refunded['id']}/failed"
    answers.append(paybus.http.put(failed).raise_for_status().json())
    charge = f"{base}/_config/charges/{refunded['charge']}/dispute"
    for status in ("needs_response", "under_review", "won"):
        answers.append(paybus.http.put(charge, json={"status": status}).raise_for_status().json())
    for path in ("customers", "subscriptions?status=all", "invoices", "plans", "products"):
        answers.append(stripe(paybus, "GET", path))
    for what in ("transfers", "payouts"):
        answers += _pay_out(paybus, what)
    return {"customer": customer, "subscription": name, "answers": answers}


def _checkout(paybus: Paybus, how: str) -> dict[str, Any]:
    request = {
        "mode": "payment",
        "success_url": "https://shop.example.com/",
        "cancel_url": "https://shop.example.com/",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "500",
        "line_items[0][price_data][product_data][name]": "a thing",
        "line_items[0][quantity]": "1",
    }
    name = stripe(paybus, "POST", "checkout/sessions", **request)["id"]
    base = paybus.layout.url("sandbox-stripe")
    paybus.http.post(f"{base}/_config/checkout/{name}/{how}").raise_for_status()
    return stripe(paybus, "GET", f"checkout/sessions/{name}")


def _pay_out(paybus: Paybus, what: str) -> list[dict[str, Any]]:
    """Create an object; return it and the list."""
    url = f"{paybus.layout.url('sandbox-providers')}/stripe/v1/{what}"
    headers, form = dict(_AUTHORIZED), {"amount": "100", "currency": "usd"}
    if what == "transfers":
        form |= {"destination": "acct_1", "transfer_group": uuid4().hex}
    else:
        headers["Stripe-Account"] = "acct_1"
    made = paybus.http.post(url, data=form, headers=headers).raise_for_status().json()
    return [made, paybus.http.get(url, headers=headers).raise_for_status().json()]


def test_the_stand_ins_answer_as_stripe_is_described(shop: dict[str, Any]) -> None:
    seen = set()
    for answer in shop["answers"]:
        is_list = answer["object"] == "list"
        (kind,) = {each["object"] for each in (answer["data"] if is_list else [answer])}
        described: Any = _KINDS[kind]
        described = sdk.ListObject[described] if is_list else described
        assert faults(shape(described), answer) == [], kind
        seen.add(kind)
    assert seen == _KINDS.keys() - {"payment_intent", "charge", "invoice_payment"}


_CALLS = {
    "charge.dispute.closed", "charge.dispute.created", "charge.dispute.funds_reinstated",
    "charge.dispute.funds_withdrawn", "charge.dispute.updated", "charge.succeeded",
    "invoice.paid", "invoice_payment.paid", "payment_intent.succeeded",
    "charge.refund.updated", "charge.refunded", "refund.failed", "refund.updated",
    "checkout.session.completed", "checkout.session.expired",
    "customer.subscription.created", "customer.subscription.deleted",
    "customer.subscription.paused", "customer.subscription.resumed",
    "customer.subscription.updated", "invoice.payment_succeeded", "payout.created", "payout.paid",
    "transfer.created",
}  # fmt: skip


@pytest.fixture(scope="module")
def webhooks(shop: dict[str, Any], mailbox: Mailbox) -> list[dict[str, Any]]:
    def came() -> set[str]:
        return {each["type"] for each in mailbox.of("/stripe")}

    until(lambda: came() >= _CALLS, what=f"a call of each type, for {shop['customer']}")
    return mailbox.of("/stripe")


def test_the_stand_ins_call_as_stripe_is_described(webhooks: list[dict[str, Any]]) -> None:
    for webhook in webhooks:
        thing = webhook["data"]["object"]
        kind = shape(_KINDS[thing["object"]])
        assert faults(kind, thing) == [], webhook["type"]
        before = webhook["data"].get("previous_attributes", {})
        assert [each for each in before if not knows(kind, (each,))] == [], webhook["type"]
        envelope = webhook | {"data": {key: {} for key in webhook["data"]}}
        assert faults(shape(sdk.Event), envelope) == [], webhook["type"]


def test_what_the_gateway_reads_is_described(webhooks: list[dict[str, Any]]) -> None:
    gateway = a_provider("stripe", "whsec_x", mode="test")
    read: dict[str, set[Path]] = {}
    for webhook in webhooks:
        notes: set[Path] = set()
        gateway._translate(Read(webhook, notes), Authentication("signature"))  # the parsed webhook
        of_thing = read.setdefault(webhook["data"]["object"]["object"], set())
        of_thing |= {path[2:] for path in notes if path[:2] == ("data", "object")}
        envelope = {path for path in notes if path[0] != "data"}
        assert [each for each in envelope if not knows(shape(sdk.Event), each)] == []
    translated = {
        "charge",
        "checkout.session",
        "dispute",
        "invoice",
        "invoice_payment",
        "payment_intent",
        "payout",
        "refund",
        "subscription",
        "transfer",
    }
    assert translated <= {kind for kind, paths in read.items() if paths}
    for kind, paths in read.items():
        unknown = {each for each in paths if not knows(shape(_KINDS[kind]), each)}
        assert unknown <= _FORMER.get(kind, set()), kind


async def test_what_billing_reads_is_described(
    paybus: Paybus, shop: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = HttpUrl(paybus.layout.url("sandbox-stripe"))
    billing = StripeBilling(stripe_client(SecretStr("sk_test_x"), url, timeout=30), ["card"])
    read: dict[str, set[Path]] = {}
    as_dict = sdk.StripeObject.to_dict

    def noting(self: sdk.StripeObject, *arguments: Any, **more: Any) -> Any:
        plain = as_dict(self, *arguments, **more)
        return Read(plain, read.setdefault(plain["object"], set()))

    monkeypatch.setattr(sdk.StripeObject, "to_dict", noting)
    customer, subscription = shop["customer"], shop["subscription"]
    (method, *_) = await billing.payment_methods(customer)
    assert await billing.invoices(customer)
    request: list[tuple[str, CommandRequest]] = [
        (customer, NewSubscription(plan_id="gold", coupon="half")),
        (subscription, Resume()),
        (subscription, ChangePlan(plan_id="silver", when="period_end")),
        (subscription, ChangePlan(plan_id="silver")),
        (subscription, Cancel()),
        (subscription, Resume()),
        (subscription, ApplyCoupon(coupon="half")),
        (customer, SetDefault(payment_method=method["id"])),
        (subscription, Cancel(when="now")),
    ]
    for number, (subject, each) in enumerate(request):
        attempt = Attempt(f"command-{number}", subject, each, 1)
        done = await billing.do(attempt)
        assert await billing.find(attempt) is not None, f"{each}: {done}"
    assert {"subscription", "customer", "subscription_schedule", "payment_method"} <= read.keys()
    for kind, paths in read.items():
        lists = sdk.ListObject[sdk.Invoice] if kind == "list" else None
        described = shape(lists or _KINDS[kind])
        unknown = {each for each in paths if not knows(described, each)}
        assert unknown <= _FORMER.get(kind, set()), kind

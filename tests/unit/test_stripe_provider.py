"""Stripe: the accepted signatures, and the event that each webhook becomes.

Signatures are made by Stripe's description (devstack.webhook), not by the SDK that checks them.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from common.contracts.payments import (
    CheckoutCompleted,
    PaymentDisputed,
    PaymentOutcome,
    PaymentRefunded,
    ProviderEvent,
)
from common.contracts.subscriptions import ProviderSubscription, Status
from devstack.webhook import signature, subscription_created
from support.providers import a_provider, translate, verify
from webhook_gateway.providers.base import Authentication, UntranslatableWebhook, VerificationFailed
from webhook_gateway.providers.stripe import TOLERANCE_SECONDS

BODY = b'{"id": "evt_1"}'
OLD, NEW = "whsec_old", "whsec_new"
STRIPE = a_provider("stripe", OLD, NEW)


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_each_of_several_secrets_is_good(secret: str) -> None:
    verify(STRIPE, BODY, {"stripe-signature": signature(BODY, secret)})


def test_one_of_several_signatures_is_enough() -> None:
    good = signature(BODY, NEW)
    header = good.replace(",v1=", f",v1={'0' * 64},v1=")
    verify(STRIPE, BODY, {"stripe-signature": header})


@pytest.mark.parametrize("skew", [-TOLERANCE_SECONDS + 5, TOLERANCE_SECONDS - 5])
def test_a_clock_that_is_somewhat_off_is_tolerated(skew: int) -> None:
    header = signature(BODY, NEW, int(time.time()) + skew)
    verify(STRIPE, BODY, {"stripe-signature": header})


def _refused() -> dict[str, tuple[str | None, str]]:
    now = int(time.time())
    good = signature(BODY, NEW, now)
    return {
        "missing": (None, "missing"),
        "empty": ("", "missing"),
        "another secret": (signature(BODY, "whsec_other", now), "does not match"),
        "another body": (signature(BODY + b" ", NEW, now), "does not match"),
        "another time": (good.replace(f"t={now}", f"t={now - 1}"), "does not match"),
        "expired": (signature(BODY, NEW, now - TOLERANCE_SECONDS - 5), "old"),
        "future": (signature(BODY, NEW, now + TOLERANCE_SECONDS + 5), "future"),
        "no time": (good.partition(",")[2], "form"),
        "no v1": (f"t={now}", "form"),
        "another scheme": (good.replace("v1=", "v0="), "form"),
        "not a number": (good.replace(f"t={now}", "t=now"), "form"),
        "truncated": (good[:-2], "does not match"),
        "upper case": (good.replace(good[-64:], good[-64:].upper()), "does not match"),
        "garbage": ("\x00\xff=,=,", "form"),
        "not ASCII": (f"t={now},v1=\xe9", "form"),
    }


@pytest.mark.parametrize("case", _refused())
def test_a_bad_signature_is_refused_with_its_reason(case: str) -> None:
    header, reason = _refused()[case]
    headers = {} if header is None else {"stripe-signature": header}
    with pytest.raises(VerificationFailed, match=reason) as caught:
        verify(STRIPE, BODY, headers)
    assert NEW not in str(caught.value)
    assert "evt_1" not in str(caught.value)


def test_a_time_stamp_with_something_behind_it_is_read_as_the_sdk_reads_it() -> None:
    now = int(time.time())
    header = signature(BODY, NEW, now).replace(f"t={now}", f"t={now}=1")
    verify(STRIPE, BODY, {"stripe-signature": header})


def test_every_changed_byte_is_noticed() -> None:
    header = {"stripe-signature": signature(BODY, NEW)}
    for position in range(len(BODY)):
        changed = bytearray(BODY)
        changed[position] ^= 1
        with pytest.raises(VerificationFailed):
            verify(STRIPE, bytes(changed), header)


def webhook(kind: str, snapshot: dict[str, Any]) -> bytes:
    event = {"id": "evt_9", "object": "event", "type": kind, "created": 1_790_000_000}
    return json.dumps(event | {"data": {"object": snapshot}}).encode()


INVOICE = {
    "id": "in_1",
    "customer": "cus_1",
    "customer_email": "a@example.com",
    "customer_name": "A",
    "amount_paid": 1500,
    "amount_due": 1600,
    "currency": "eur",
}
OLD_INVOICE = INVOICE | {
    "subscription": "sub_1",
    "payment_intent": "pi_1",
    "charge": {"id": "ch_1"},
}
NEW_INVOICE = INVOICE | {
    "parent": {"type": "subscription_details", "subscription_details": {"subscription": "sub_1"}},
    "payments": {"data": [{"payment": {"type": "payment_intent", "payment_intent": "pi_1"}}]},
}


@pytest.mark.parametrize(
    ("invoice", "references"), [(OLD_INVOICE, ["ch_1", "pi_1"]), (NEW_INVOICE, ["pi_1"])]
)
@pytest.mark.parametrize(
    ("kind", "type_", "amount"),
    [
        ("invoice.paid", "payment.succeeded", 1500),
        ("invoice.payment_succeeded", "payment.succeeded", 1500),
        ("invoice.payment_failed", "payment.failed", 1600),
    ],
)
def test_invoices_before_and_since_basil(
    invoice: dict[str, Any], references: list[str], kind: str, type_: str, amount: int
) -> None:
    event = translate(STRIPE, webhook(kind, invoice))
    assert (event.type, event.id, event.correlationid) == (type_, "evt_9", "evt_9")
    assert (event.source, event.trust) == ("/webhook-gateway/stripe", "signature")
    data = event.data
    assert isinstance(data, PaymentOutcome)
    assert (data.payment_id, data.subscription_id, data.customer_id) == ("in_1", "sub_1", "cus_1")
    assert (data.amount, data.currency, data.references) == (amount, "EUR", references)
    assert data.contact.email == "a@example.com"


@pytest.mark.parametrize("kind", ["created", "updated"])
def test_a_subscription_since_basil(kind: str) -> None:
    snapshot = subscription_created("1")["data"]["object"]
    event = translate(STRIPE, webhook(f"customer.subscription.{kind}", snapshot))
    assert event.type == f"provider_subscription.{kind}"
    data = event.data
    assert isinstance(data, ProviderSubscription)
    assert data.status is Status.ACTIVE
    assert data.plan is not None
    assert (data.plan.plan_id, data.plan.amount, data.plan.currency) == (
        "price_starter",
        1500,
        "EUR",
    )
    assert data.current_period_end is not None


def test_a_subscription_before_basil() -> None:
    plan = {"id": "starter", "amount": 900, "currency": "eur", "interval": "month", "name": "S"}
    snapshot = {
        "id": "sub_1",
        "customer": "cus_1",
        "status": "trialing",
        "current_period_end": 1_790_000_000,
        "items": {"data": [{"plan": plan}]},
        "plan": plan,
        "metadata": {},
    }
    data = translate(STRIPE, webhook("customer.subscription.updated", snapshot)).data
    assert (data.status, data.plan.interval) == (Status.ACTIVE, "month")
    assert data.current_period_end.timestamp() == 1_790_000_000


@pytest.mark.parametrize(
    ("stripe_status", "status"),
    [
        ("incomplete", Status.INCOMPLETE),
        ("incomplete_expired", Status.EXPIRED),
        ("trialing", Status.ACTIVE),
        ("active", Status.ACTIVE),
        ("past_due", Status.PAST_DUE),
        ("unpaid", Status.UNPAID),
        ("paused", Status.PAUSED),
        ("canceled", Status.CANCELLED),
    ],
)
def test_every_status_of_stripe(stripe_status: str, status: Status) -> None:
    snapshot = subscription_created("1", status=stripe_status)["data"]["object"]
    body = webhook("customer.subscription.updated", snapshot)
    assert translate(STRIPE, body).data.status is status


def test_a_deleted_subscription_is_cancelled() -> None:
    snapshot = subscription_created("1")["data"]["object"]
    event = translate(STRIPE, webhook("customer.subscription.deleted", snapshot))
    assert event.data.status is Status.CANCELLED


def test_a_checkout() -> None:
    session = {
        "id": "cs_1",
        "mode": "subscription",
        "payment_status": "paid",
        "customer": "cus_1",
        "customer_details": {"email": "a@example.com", "name": "A"},
        "subscription": "sub_1",
        "amount_total": 1500,
        "currency": "eur",
        "client_reference_id": "cart-7",
        "metadata": {"organization": "Acme"},
    }
    event = translate(STRIPE, webhook("checkout.session.completed", session))
    assert event.type == "checkout.completed"
    assert isinstance(event.data, CheckoutCompleted)
    assert event.data.paid
    assert event.data.contact.name == "A"
    assert event.data.metadata == {"organization": "Acme"}


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("checkout.session.expired", "payment.expired"),
        ("checkout.session.async_payment_failed", "payment.failed"),
    ],
)
def test_a_session_that_was_not_paid(kind: str, told: str) -> None:
    session = {"id": "cs_1", "mode": "payment", "customer": "cus_1", "amount_total": 1500}
    event = translate(STRIPE, webhook(kind, session | {"currency": "eur"}))
    assert event.type == told
    assert isinstance(event.data, PaymentOutcome)
    assert (event.data.payment_id, event.data.customer_id) == ("cs_1", None)
    assert (event.data.amount, event.data.currency) == (1500, "EUR")


def test_a_refund_and_a_dispute() -> None:
    charge = {"id": "ch_1", "payment_intent": "pi_1", "amount_refunded": 500, "currency": "eur"}
    refund = translate(STRIPE, webhook("charge.refunded", charge))
    assert refund.type == "payment.refunded"
    assert isinstance(refund.data, PaymentRefunded)
    assert refund.data.references == ["ch_1", "pi_1"]
    case = {"id": "du_1", "charge": "ch_1", "amount": 1500, "currency": "eur", "reason": "fraud"}
    dispute = translate(STRIPE, webhook("charge.dispute.created", case))
    assert dispute.type == "payment.disputed"
    assert isinstance(dispute.data, PaymentDisputed)


def test_any_other_type_is_kept() -> None:
    event = translate(STRIPE, webhook("product.created", {"id": "prod_1"}))
    assert event.type == "provider.stripe.product.created"
    assert isinstance(event.data, ProviderEvent)
    assert event.data.body["data"]["object"] == {"id": "prod_1"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"id": "evt_1", "type": "invoice.paid"}',
        b'{"id": 7, "type": "product.created", "created": 1, "data": {"object": {}}}',
        b'{"id": "evt_1", "type": 7, "created": 1, "data": {"object": {}}}',
        b'{"id": "evt_1", "type": "product.created", "created": 1e300, "data": {"object": {}}}',
        b'{"id": "evt_1", "type": "product.created", "created": "now", "data": {"object": {}}}',
        b'{"id": "evt_1", "type": "invoice.paid", "created": 1, "data": {"object": []}}',
        b'{"id": "\\ud800", "type": "product.created", "created": 1, "data": {"object": {}}}',
        b"[" * 100_000,
        webhook("invoice.paid", INVOICE | {"amount_paid": -1}),
        webhook("invoice.paid", INVOICE | {"amount_paid": 2**64}),
        webhook("invoice.paid", INVOICE | {"amount_paid": 15.5}),
        webhook("invoice.paid", INVOICE | {"currency": "euro"}),
        webhook("customer.subscription.created", {"id": "s", "customer": "c", "status": "new"}),
        webhook("x" * 300, {"id": "x"}),
        webhook("invoice.paid", INVOICE | {"id": ""}),
        webhook("customer.subscription.created", {"id": "s", "customer": "", "status": "active"}),
    ],
)
def test_what_is_no_stripe_event_is_untranslatable(body: bytes) -> None:
    with pytest.raises(UntranslatableWebhook):
        translate(STRIPE, body).encode()


def test_a_price_with_a_fraction_of_the_currency_hides_nothing_else() -> None:
    """Such prices in ISK exist from before 2023, and their subscriptions end, too."""
    event = subscription_created("isk")
    event |= {"type": "customer.subscription.deleted", "livemode": True}
    event["data"]["object"]["items"]["data"][0]["price"] |= {"currency": "isk", "unit_amount": 4010}
    (translated,) = STRIPE.translate(json.dumps(event).encode(), Authentication("signature"))
    assert translated.type == "provider_subscription.deleted"
    assert translated.data.plan.amount is None


def test_what_the_holder_of_a_connected_account_writes_names_no_payout_of_ours() -> None:
    """Anyone could otherwise report another recipient's payout as paid."""
    event = {
        "id": "evt_1",
        "object": "event",
        "type": "payout.paid",
        "created": 1_790_000_000,
        "livemode": True,
        "account": "acct_somebody",
        "data": {
            "object": {
                "id": "po_1",
                "object": "payout",
                "amount": 1,
                "currency": "usd",
                "status": "paid",
                "destination": "ba_1",
                "metadata": {"paybus_payout": "another one's"},
            }
        },
    }
    (theirs,) = STRIPE.translate(json.dumps(event).encode(), Authentication("signature"))
    assert (theirs.data.transfer_id, theirs.data.reference) == ("po_1", None)
    del event["account"]
    (ours,) = STRIPE.translate(json.dumps(event).encode(), Authentication("signature"))
    assert ours.data.reference == "another one's"


def test_what_the_holder_of_a_connected_account_writes_names_no_checkout_or_command_of_ours() -> (
    None
):
    """Its metadata is the account holder's: keys with the prefix `paybus_` are removed, others are
    the shop's own and stay."""
    served = a_provider("stripe", NEW, accounts=["acct_seller"])
    theirs = {"paybus_checkout": "ours", "paybus_command": "ours", "organization": "Acme"}
    session = {
        "id": "cs_1",
        "object": "checkout.session",
        "mode": "payment",
        "amount_total": 500,
        "currency": "usd",
        "payment_intent": "pi_1",
        "payment_status": "paid",
        "metadata": theirs,
    }
    subscription = subscription_created("1")["data"]["object"] | {"metadata": theirs}
    for type_, snapshot in (
        ("checkout.session.completed", session),
        ("customer.subscription.updated", subscription),
    ):
        event = json.loads(webhook(type_, snapshot)) | {"livemode": True}
        own = translate(served, json.dumps(event).encode())
        assert own.data.metadata == theirs
        connected = translate(served, json.dumps(event | {"account": "acct_seller"}).encode())
        assert connected.data.metadata == {"organization": "Acme"}

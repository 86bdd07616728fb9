"""The events made of each provider's calls; Stripe's older ones: test_stripe_provider.py."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from pydantic_core import from_json

from support.providers import a_provider, translate
from webhook_gateway.providers.base import Authentication, UntranslatableWebhook
from webhook_gateway.providers.registry import PROVIDERS

URL = "https://pay.example.com/webhooks/square"
OPTIONS: dict[str, dict[str, Any]] = {
    "square": {"notification_url": URL},
    "plaid": {"client_id": "me", "secret": "api-secret"},
}
REFERENCE = "0c3e6f6e-6b52-4f3a-8f8e-0d7a7a7f2f9b"
EUR = {"amount": 1500, "currency": "EUR"}


def square(type_: str, **thing: Any) -> dict[str, Any]:
    (found,) = thing.values()
    return {
        "merchant_id": "M",
        "type": type_,
        "event_id": "e-1",
        "created_at": "2026-11-21T10:00:00.5Z",
        "data": {"type": type_.partition(".")[0], "id": found["id"], "object": thing},
    }


def dwolla(topic: str) -> dict[str, Any]:
    return {
        "id": "event-1",
        "resourceId": "transfer-1",
        "topic": topic,
        "timestamp": "2026-11-21T10:00:00.000Z",
        "_links": {
            "account": {"href": "https://api.dwolla.com/accounts/a"},
            "customer": {"href": "https://api.dwolla.com/customers/c"},
        },
    }


def stripe(type_: str, snapshot: dict[str, Any]) -> dict[str, Any]:
    return {"id": "evt_1", "type": type_, "created": 1, "data": {"object": snapshot}}


def plaid(code: str, kind: str = "ITEM", **more: Any) -> dict[str, Any]:
    return {"webhook_type": kind, "webhook_code": code, "item_id": "item-1", **more}


PAYMENT = {"id": "p1", "status": "COMPLETED", "amount_money": EUR, "order_id": "o1"}
PAYOUT = {"id": "po1", "amount_money": EUR, "location_id": "L", "end_to_end_id": "ours"}
TRANSFER = {"id": "tr_1", "amount": 900, "currency": "eur", "destination": "acct_1"}

CASES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("fapshi", {"transId": "t", "status": "FAILED"},
     "payment.notification_received", {"claim": "failed"}),
    ("mtn-momo", {"externalId": REFERENCE, "status": "SUCCESSFUL"}, "payment.notification_received",
     {"reference": REFERENCE, "claim": "succeeded", "endpoint": "default"}),
    ("mtn-momo", {"referenceId": REFERENCE, "externalId": "x", "status": "FAILED"},
     "payment.notification_received", {"reference": REFERENCE}),
    ("orange-money", {"notif_token": "token", "status": "SUCCESS", "txnid": "1"},
     "payment.notification_received", {"reference": hashlib.sha256(b"token").hexdigest()}),
    ("flutterwave", {"event": "transfer.completed", "data": {"id": 33286, "reference": "ours",
     "amount": 50.25, "currency": "NGN", "status": "SUCCESSFUL", "complete_message": ""}},
     "provider_transfer.succeeded", {"transfer_id": "33286", "amount": 5025, "reason": None}),
    ("flutterwave", {"id": "wbk_1", "type": "transfer.disburse", "data": {"id": "trf_1",
     "amount": {"value": 500, "currency": "XAF"}, "currency": "XAF", "status": "FAILED"}},
     "provider_transfer.failed", {"amount": 500, "currency": "XAF"}),
    ("flutterwave", {"id": "wbk_2", "type": "refund.completed",
     "data": {"id": "r", "status": "succeeded"}}, "provider.flutterwave.refund.completed", {}),
    ("flutterwave", {"id": 99, "txRef": "ours", "flwRef": "FLW-1", "amount": 500,
     "status": "successful", "currency": "UGX", "event.type": "MOBILEMONEYUG_TRANSACTION"},
     "payment.notification_received", {"reference": "ours", "claim": "succeeded"}),
    ("flutterwave", {"event.type": "Transfer", "transfer": {"id": 7, "status": "SUCCESSFUL"}},
     "provider.flutterwave.Transfer", {}),
    ("flutterwave", {"type": "customer.created", "data": {"email": "a@example.com"}},
     "provider.flutterwave.customer.created", {}),
    ("square", square("payment.updated", payment=PAYMENT), "payment.succeeded",
     {"payment_id": "p1", "amount": 1500, "currency": "EUR", "references": ["o1"]}),
    ("square", square("payment.updated", payment=PAYMENT | {"status": "FAILED",
     "card_details": {"errors": [{"code": "CVV_FAILURE"}]}}), "payment.failed",
     {"reason": "CVV_FAILURE"}),
    ("square", square("payment.created", payment=PAYMENT | {"status": "APPROVED"}),
     "provider.square.payment.created", {}),
    ("square", square("dispute.created", dispute={"id": "d1", "amount_money": EUR,
     "reason": "NO_KNOWLEDGE", "disputed_payment": {"payment_id": "p1"}}), "payment.disputed",
     {"dispute_id": "d1", "references": ["p1"]}),
    ("square", square("dispute.state.updated", dispute={"id": "d1", "amount_money": EUR,
     "reason": "NO_KNOWLEDGE", "state": "INQUIRY_PROCESSING",
     "disputed_payment": {"payment_id": "p1"}}), "payment.disputed", {"status": "inquiry"}),
    ("square", square("payout.sent", payout=PAYOUT | {"status": "SENT"}), "provider_payout.created",
     {"transfer_id": "po1", "reference": "ours", "account": "L"}),
    ("square", square("payout.paid", payout=PAYOUT | {"status": "PAID"}),
     "provider_payout.succeeded", {}),
    ("square", square("payout.failed", payout=PAYOUT | {"status": "FAILED",
     "amount_money": {"amount": -1500, "currency": "EUR"}}),
     "provider_payout.failed", {"amount": -1500}),
    ("square", square("customer.created", customer={"id": "c"}),
     "provider.square.customer.created", {}),
    ("square", square("payment.updated", payment=PAYMENT
     | {"tip_money": {"amount": 200, "currency": "EUR"},
        "total_money": {"amount": 1700, "currency": "EUR"}}), "payment.succeeded",
     {"amount": 1700, "currency": "EUR"}),
    ("square", square("payout.sent", payout=PAYOUT
     | {"status": "SENT", "amount_money": {"amount": 457, "currency_code": "EUR"}}),
     "provider_payout.created", {"amount": 457, "currency": "EUR"}),
    # https://developer.squareup.com/reference/square/locations-api/webhooks/location.created
    ("square", {"merchant_id": "M", "type": "location.created", "event_id": "e-2",
     "created_at": "2026-11-28T10:00:00Z", "data": {"type": "Location", "id": "L1"}},
     "provider.square.location.created", {}),
    ("square", {"merchant_id": "M", "type": "invoice.deleted", "event_id": "e-3",
     "created_at": "2026-11-28T10:00:00Z",
     "data": {"type": "invoice", "id": "inv:0-1", "deleted": True}},
     "provider.square.invoice.deleted", {}),
    ("dwolla", dwolla("customer_transfer_completed"), "provider_transfer.succeeded",
     {"transfer_id": "transfer-1", "account": "https://api.dwolla.com/customers/c",
      "amount": None}),
    ("dwolla", dwolla("transfer_reclaimed"), "provider_transfer.reversed", {}),
    ("dwolla", dwolla("customer_bank_transfer_failed"), "provider_payout.failed",
     {"reason": "customer_bank_transfer_failed"}),
    ("dwolla", dwolla("customer_created"), "provider.dwolla.customer_created", {}),
    ("plaid", plaid("SYNC_UPDATES_AVAILABLE", "TRANSACTIONS", initial_update_complete=True),
     "provider_bank_item.updated", {"item_id": "item-1", "initial_update_complete": True}),
    ("plaid", plaid("ERROR", error={"error_code": "ITEM_LOGIN_REQUIRED"}),
     "provider_bank_item.failed",
     {"reason": "ITEM_LOGIN_REQUIRED"}),
    ("plaid", plaid("PENDING_EXPIRATION", consent_expiration_time="2026-12-01T00:00:00Z"),
     "provider_bank_item.expiring", {"until": "2026-12-01T00:00:00Z"}),
    ("plaid", plaid("PENDING_DISCONNECT", reason="INSTITUTION_MIGRATION"),
     "provider_bank_item.expiring",
     {"reason": "INSTITUTION_MIGRATION", "until": None}),
    ("plaid", plaid("LOGIN_REPAIRED"), "provider_bank_item.repaired", {}),
    ("plaid", plaid("USER_PERMISSION_REVOKED"), "provider_bank_item.revoked", {}),
    ("plaid", plaid("NEW_ACCOUNTS_AVAILABLE"), "provider_bank_item.accounts_available", {}),
    ("plaid", plaid("AUTOMATICALLY_VERIFIED", "AUTH"), "provider.plaid.AUTH.AUTOMATICALLY_VERIFIED",
     {}),
    ("stripe", stripe("transfer.created", TRANSFER | {"transfer_group": "ours"}),
     "provider_transfer.created", {"account": "acct_1", "reference": "ours", "amount": 900}),
    ("stripe", stripe("payout.paid", TRANSFER | {"amount": -1200}), "provider_payout.succeeded",
     {"amount": -1200}),
    ("stripe", stripe("payout.failed", TRANSFER | {"failure_message": "closed"}),
     "provider_payout.failed", {"reason": "closed"}),
    ("stripe", stripe("customer.updated",
     {"id": "cus_1", "email": "new@example.com", "name": None}), "provider_customer.updated",
     {"customer_id": "cus_1", "contact": {"email": "new@example.com", "name": None}}),
    ("stripe", stripe("invoice.finalized", {"id": "in_1", "customer": "cus_1",
     "customer_email": "buyer@example.com", "customer_name": "Buyer GmbH"}),
     "provider_customer.updated",
     {"customer_id": "cus_1", "contact": {"email": "buyer@example.com", "name": "Buyer GmbH"}}),
    ("stripe", stripe("checkout.session.expired", {"id": "cs_1", "mode": "setup",
     "payment_status": "no_payment_required", "amount_total": None, "currency": None}),
     "provider.stripe.checkout.session.expired", {}),
    ("stripe", stripe("checkout.session.completed", {"id": "cs_1", "mode": "setup",
     "payment_status": "no_payment_required"}), "provider.stripe.checkout.session.completed", {}),
    ("stripe", {"id": "evt_2", "object": "v2.core.event", "created": "2026-11-21T10:00:00.000Z",
     "type": "v1.billing.meter.error_report_triggered", "related_object": {"id": "mtr_1"}},
     "provider.stripe.v1.billing.meter.error_report_triggered", {}),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "webhook", "type_", "data"), CASES)
def test_a_call_becomes(
    provider: str, webhook: dict[str, Any], type_: str, data: dict[str, Any]
) -> None:
    endpoint = a_provider(provider, "secret", tenant="shop", **OPTIONS.get(provider, {}))
    event = translate(endpoint, json.dumps(webhook).encode(), Authentication("signature", "7"))
    body = json.loads(event.encode())
    assert (body["type"], body["tenant"]) == (type_, "shop")
    assert body["source"] == f"/webhook-gateway/{provider}"
    assert data.items() <= body["data"].items()
    again = translate(endpoint, json.dumps(webhook).encode(), Authentication("signature", "7"))
    assert (again.id == event.id) == (type_ != "payment.notification_received"), "each hint is news"


def test_one_call_of_square_may_say_two_things() -> None:
    endpoint = a_provider("square", "secret", **OPTIONS["square"])
    webhook = square(
        "payment.updated", payment=PAYMENT | {"refunded_money": {"amount": 500, "currency": "EUR"}}
    )
    events = endpoint.translate(json.dumps(webhook).encode(), Authentication("signature"))
    assert [(each.type, each.id) for each in events] == [
        ("payment.succeeded", "e-1"),
        ("payment.refunded", "e-1/1"),
    ]
    assert events[1].data.amount_refunded == 500


NONSENSE = [
    b"",
    b"\xff",
    b"null",
    b"[]",
    b'"text"',
    b"7",
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"type": NaN, "event_id": 1e999}',
    b'{"type": "\\ud800", "topic": "\\udc00", "webhook_code": "\\ud800"}',
    b'{"data": {"id": %d}}' % 2**70,
    b'{"data": null, "_links": 7, "status": [], "transId": {}, "topic": "transfer_created"}',
]

MOBILE_MONEY = ("fapshi", "mtn-momo", "orange-money", "flutterwave")


@pytest.mark.parametrize("provider", MOBILE_MONEY)
@pytest.mark.parametrize("body", [*NONSENSE, b'{"transId": "\\u0000", "status": null}'])
def test_nonsense_is_untranslatable_for_mobile_money(provider: str, body: bytes) -> None:
    with pytest.raises(UntranslatableWebhook):
        a_provider(provider, "secret").translate(body, Authentication("secret"))


@pytest.mark.parametrize("provider", sorted({*PROVIDERS} - {*MOBILE_MONEY}))
@pytest.mark.parametrize("body", NONSENSE)
def test_nonsense_is_untranslatable(provider: str, body: bytes) -> None:
    endpoint = a_provider(provider, "secret", **OPTIONS.get(provider, {}))
    with pytest.raises(UntranslatableWebhook):
        endpoint.translate(body, Authentication("signature"))


def test_a_transfer_is_not_believed_for_a_plain_secret() -> None:
    data = {"id": 1, "status": "SUCCESSFUL", "amount": 50, "currency": "NGN"}
    body = json.dumps({"event": "transfer.completed", "data": data}).encode()
    event = translate(a_provider("flutterwave", "secret"), body, Authentication("secret"))
    assert (event.type, event.trust) == ("provider.flutterwave.transfer.completed", "secret")


def test_what_nobody_could_read_inside_an_envelope_is_untranslatable() -> None:
    """As deep as JSON may be nested, then wrapped in an event: journal readers would fail."""
    deep = b'{"id": "evt_1", "type": "product.created", "created": 1, "data": %s%s}'
    endpoint = a_provider("stripe", "secret")
    outcomes = set()
    for depth in range(100, 260, 2):
        try:
            (event,) = endpoint.translate(
                deep % (b"[" * depth, b"]" * depth), Authentication("signature")
            )
        except UntranslatableWebhook:
            outcomes.add("refused")
        else:
            from_json(event.encode())
            outcomes.add("taken")
    assert outcomes == {"taken", "refused"}


def test_what_is_not_translated_is_recorded_whole() -> None:
    """Who it concerns may be said beside `data`."""
    left = {"id": "evt_1", "type": "account.application.deauthorized", "created": 1,
            "account": "acct_1", "livemode": True, "api_version": "2025-09-30.clover",
            "data": {"object": {"id": "ca_1", "object": "application"}}}  # fmt: skip
    moved = {"merchant_id": "M", "location_id": "L", "type": "location.updated", "event_id": "e-1",
             "created_at": "2026-11-28T10:00:00Z",
             "data": {"type": "Location", "id": "L"}}  # fmt: skip
    for name, webhook in (("stripe", left), ("square", moved)):
        endpoint = a_provider(name, "secret", **OPTIONS.get(name, {}))
        event = translate(endpoint, json.dumps(webhook).encode())
        assert event.data.body == webhook


def test_a_price_is_charged_every_so_many_intervals() -> None:
    price = {"id": "price_1", "unit_amount": 2700, "currency": "usd",
             "recurring": {"interval": "month", "interval_count": 3}}  # fmt: skip
    subscription = {"id": "sub_1", "customer": "cus_1", "status": "active",
                    "items": {"data": [{"quantity": 25, "price": price}]}}  # fmt: skip
    webhook = stripe("customer.subscription.updated", subscription)
    event = translate(a_provider("stripe", "secret"), json.dumps(webhook).encode())
    plan, (item,) = event.data.plan, event.data.items
    assert (plan.interval, plan.interval_count, item.quantity) == ("month", 3, 25)


@pytest.mark.parametrize("type_", ["customer.subscription.created", "invoice.finalized"])
def test_an_object_without_a_customer_makes_none(type_: str) -> None:
    webhook = stripe(type_, {"id": "x_1", "customer": None, "customer_account": "acct_1"})
    event = translate(a_provider("stripe", "secret"), json.dumps(webhook).encode())
    assert event.type == f"provider.stripe.{type_}"


def test_events_of_flutterwave_without_an_id_are_told_apart() -> None:
    endpoint = a_provider("flutterwave", "secret")
    bodies = [
        json.dumps({"type": "customer.created", "data": {"email": email}}).encode()
        for email in ("a@example.com", "b@example.com", "a@example.com")
    ]
    first, second, again = (translate(endpoint, body).id for body in bodies)
    assert (first == again, first == second) == (True, False)

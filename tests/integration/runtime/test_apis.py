"""The read APIs: filters, pages and access control."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from support.paybus import Paybus
from support.waiting import until


@pytest.fixture(scope="module")
def paybus(whole_paybus: Paybus) -> Paybus:
    for status in ("active", "active", "active", "past_due", "incomplete"):
        whole_paybus.subscribe(status=status)
    until(lambda: len(_items(whole_paybus, "/v1/subscriptions")) == 5, what="five subscriptions")
    return whole_paybus


def _get(paybus: Paybus, path: str, **options: Any) -> httpx.Response:
    return paybus.api("GET", "subscription", path, **options)


def _items(paybus: Paybus, path: str) -> list[dict[str, Any]]:
    answer = _get(paybus, path)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_filters(paybus: Paybus) -> None:
    assert len(_items(paybus, "/v1/subscriptions?status=active")) == 3
    one = _items(paybus, "/v1/subscriptions?status=past_due")[0]
    by_customer = _items(paybus, f"/v1/subscriptions?customer_id={one['customer_id']}")
    assert [each["id"] for each in by_customer] == [one["id"]]
    assert len(_items(paybus, f"/v1/subscriptions?plan_id={one['plan_id']}")) == 5
    assert len(_items(paybus, "/v1/plans")) == 1
    assert len(_items(paybus, "/v1/customers")) == 5


def test_pages_show_everything_once(paybus: Paybus) -> None:
    seen: list[str] = []
    cursor = ""
    while True:
        page = _get(paybus, f"/v1/subscriptions?limit=2{cursor}").json()
        seen += [each["id"] for each in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen)) == 5


def _cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "%00",
        _cursor("[]"),
        _cursor('["x","y"]'),
        _cursor('["2024-01-01T00:00:00+00:00","\\u0000"]'),
        _cursor('["2024-01-01T00:00:00+00:00","\\ud800"]'),
        _cursor("[" * 20_000),
    ],
)
def test_a_broken_cursor_is_answered_400(paybus: Paybus, cursor: str) -> None:
    answer = _get(paybus, f"/v1/subscriptions?cursor={cursor}")
    assert answer.status_code == 400
    assert "cursor" in answer.json()["detail"]


@pytest.mark.parametrize("query", ["status=nonsense", "limit=0", "limit=1000"])
def test_a_broken_filter_is_answered_422_with_a_problem_document(
    paybus: Paybus, query: str
) -> None:
    answer = _get(paybus, f"/v1/subscriptions?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert query.partition("=")[0] in answer.json()["detail"]


@pytest.mark.parametrize("path", ["?customer_id=%00", "/%00"])
def test_nul_in_a_query_or_a_path_is_answered_400(paybus: Paybus, path: str) -> None:
    answer = _get(paybus, f"/v1/subscriptions{path}")
    assert answer.status_code == 400, answer.text


def test_one_by_its_id_and_another_tenants_not(paybus: Paybus) -> None:
    id_ = _items(paybus, "/v1/subscriptions")[0]["id"]
    assert _get(paybus, f"/v1/subscriptions/{id_}").json()["id"] == id_
    assert _get(paybus, f"/v1/subscriptions/{id_}", tenant="other").status_code == 404
    assert _get(paybus, "/v1/subscriptions", tenant="other").json()["items"] == []
    assert _get(paybus, "/v1/subscriptions/nobody").status_code == 404


def test_payments_show_their_reversals_in_whichever_order_they_came(paybus: Paybus) -> None:
    def webhook(name: str, kind: str, snapshot: dict[str, Any]) -> dict[str, Any]:
        event: dict[str, Any] = {"id": f"evt_{name}", "object": "event", "type": kind}
        return event | {"created": 1_790_000_000, "data": {"object": snapshot}}

    charge = {"id": "ch_r", "payment_intent": "pi_r", "currency": "eur"}
    invoice: dict[str, Any] = {
        "id": "in_r",
        "customer": "cus_r",
        "payment_intent": "pi_r",
        "charge": "ch_r",
    }
    invoice |= {"amount_paid": 1500, "currency": "eur"}
    dispute: dict[str, Any] = {
        "id": "du_r",
        "charge": "ch_r",
        "amount": 1500,
        "currency": "eur",
        "reason": "fraud",
    }
    for each in (
        webhook("refund2", "charge.refunded", charge | {"amount_refunded": 900}),
        webhook("refund1", "charge.refunded", charge | {"amount_refunded": 400}),
        webhook("paid", "invoice.paid", invoice),
        webhook("dispute", "charge.dispute.created", dispute),
    ):
        assert paybus.send(each).status_code == 200

    def complete() -> dict[str, Any] | None:
        found = [p for p in _items(paybus, "/v1/payments") if p["provider_payment_id"] == "in_r"]
        return found[0] if found and len(found[0]["reversals"]) == 2 else None

    payment = until(complete, what="the payment with its refund and its dispute")
    assert payment is not None
    assert (payment["paid"], payment["amount"], payment["currency"]) == (True, 1500, "EUR")
    assert {r["kind"]: r["amount"] for r in payment["reversals"]} == {
        "refund": 900,
        "dispute": 1500,
    }


@pytest.mark.parametrize("first", ["invoice.paid", "invoice_payment.paid"])
def test_a_dispute_is_linked_to_its_invoice_and_has_a_life(paybus: Paybus, first: str) -> None:
    """Since 2025-03-31 an invoice does not name its payment intent, and the intent no invoice:
    https://docs.stripe.com/changelog/basil/2025-03-31/add-support-for-multiple-partial-payments-on-invoices"""
    name = f"{first.partition('.')[0]}_life"

    def send(kind: str, at: int, snapshot: dict[str, Any]) -> None:
        event: dict[str, Any] = {"id": f"evt_{kind}_{at}_{name}", "object": "event", "type": kind}
        event |= {"created": 1_790_000_000 + at, "data": {"object": snapshot}}
        assert paybus.send(event).status_code == 200

    invoice: dict[str, Any] = {"id": f"in_{name}", "customer": f"cus_{name}", "amount_paid": 1500,
               "currency": "eur"}  # fmt: skip
    link: dict[str, Any] = {"id": f"inpay_{name}", "invoice": f"in_{name}", "status": "paid",
            "payment": {"type": "payment_intent", "payment_intent": f"pi_{name}"}}  # fmt: skip
    dispute = {"id": f"du_{name}", "amount": 1500, "currency": "eur", "charge": f"ch_{name}",
               "payment_intent": f"pi_{name}", "reason": "fraudulent"}  # fmt: skip
    reports = [("invoice.paid", invoice), ("invoice_payment.paid", link)]

    def payment() -> dict[str, Any]:
        found = [
            p for p in _items(paybus, "/v1/payments") if p["provider_payment_id"] == f"in_{name}"
        ]
        return found[0] if found else {}

    def until_disputed(status: str) -> None:
        def disputed() -> bool:
            return [each["status"] for each in payment()["reversals"]] == [status]

        until(disputed, what=f"the dispute is {status}")

    for kind, snapshot in sorted(reports, key=lambda report: report[0] != first):
        send(kind, 0, snapshot)
    until(payment, what="the invoice's payment is listed")
    assert payment()["customer_id"]
    for at, (kind, status, shown) in enumerate(
        [
            ("charge.dispute.created", "warning_needs_response", "inquiry"),
            ("charge.dispute.updated", "needs_response", "open"),
            ("charge.dispute.closed", "won", "won"),
        ],
        start=1,
    ):
        send(kind, at, dispute | {"status": status})
        until_disputed(shown)
    send("charge.dispute.funds_withdrawn", 2, dispute | {"status": "needs_response"})
    send("charge.refunded", 4, {"id": f"ch_{name}", "payment_intent": f"pi_{name}",
                                "amount_refunded": 100, "currency": "eur"})  # fmt: skip
    until(lambda: len(payment()["reversals"]) == 2, what="the refund is listed")
    statuses = {each["kind"]: each["status"] for each in payment()["reversals"]}
    assert statuses == {"dispute": "won", "refund": None}, "a late report changes nothing"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer nonsense", "Basic dXNlcjpwYXNz", "Bearer a.b.c"],
)
def test_without_a_valid_token_401(paybus: Paybus, header: str) -> None:
    url = f"{paybus.layout.url('subscription-api')}/v1/subscriptions"
    answer = paybus.http.get(url, headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_viewer_may_look_and_not_touch(paybus: Paybus) -> None:
    assert paybus.api("GET", "provisioning", "/v1/schedules", role="viewer").status_code == 200
    for path in ("/v1/integrations/retry", "/v1/schedules/health-check/pause"):
        answer = paybus.api("POST", "provisioning", path, role="viewer", json={})
        assert answer.status_code == 403
        assert "operator" in answer.json()["detail"]


def test_schedules_are_seen_paused_resumed_and_run(paybus: Paybus) -> None:
    def schedule(name: str) -> dict[str, Any]:
        found = paybus.api("GET", "provisioning", "/v1/schedules").json()
        return next(each for each in found if each["name"] == name)

    def post(path: str) -> httpx.Response:
        return paybus.api("POST", "provisioning", f"/v1/schedules/{path}")

    assert schedule("retry-failed")["expression"] == "every 1:00:00"
    assert post("health-check/pause").json()["paused"] is True
    due = "UPDATE schedules SET next_run_at = now() - interval '1 hour' WHERE name = 'health-check'"
    paybus.sql("provisioning", due)
    assert post("retry-failed/run").status_code == 202
    until(lambda: schedule("retry-failed")["last_outcome"] == "succeeded", what="it ran")
    assert schedule("health-check")["last_run_at"] is None, "paused"
    assert post("health-check/resume").json()["paused"] is False
    until(lambda: schedule("health-check")["last_outcome"] == "succeeded", what="it caught up")
    assert schedule("health-check")["last_result"].startswith("healthy")
    assert post("nonsense/run").status_code == 404

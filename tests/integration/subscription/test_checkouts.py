"""Starting checkouts: once per key, whatever the provider does; paid activates a subscription."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from conftest import MakePaybus
from support.checkouts import (
    AMOUNT,
    PROCESSES,
    order,
    payments_at,
    post,
    read,
    settle,
    start,
    until_status,
    until_subscription,
    until_told,
)
from support.mobile_money import PROVIDERS, ask_now, deliver, sandbox
from support.paybus import Paybus
from support.waiting import until


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(PROCESSES, PROVIDER_TIMEOUT_SECONDS="2") as paybus:
        paybus.tap("subscriptions", "subscription.*")
        yield paybus


@pytest.fixture(autouse=True)
def well(paybus: Paybus) -> Iterator[None]:
    deliver(paybus)
    yield
    sandbox(paybus, "PUT", "/_behaviour", mode="well")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_paid_checkout_makes_its_subscription_active_once(paybus: Paybus, provider: str) -> None:
    deliver(paybus, duplicate=1)
    checkout = start(paybus, order(provider))
    assert checkout["status"] == "pending"
    assert (checkout["url"] is None) == (provider == "mtn-momo")
    assert read(paybus, "subscriptions", checkout["subscription_id"]) == {}
    settle(paybus, checkout)
    subscription = until_subscription(paybus, checkout, "active")
    until_status(paybus, checkout, "paid")
    assert subscription["provider"] == "paybus"
    assert subscription["current_period_end"] > subscription["created_at"]
    customer = read(paybus, "customers", subscription["customer_id"])
    assert (customer["email"], customer["name"]) == ("ama@example.com", "Ama")
    until_told(paybus, checkout, "activated")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("standing", ["failed", "expired"])
def test_an_unpaid_checkout_makes_nothing_active(
    paybus: Paybus, provider: str, standing: str
) -> None:
    checkout = start(paybus, order(provider))
    settle(paybus, checkout, standing)
    # MTN and Flutterwave do not distinguish an expiry from a failure.
    words = {"failed"} if provider in {"mtn-momo", "flutterwave"} else {standing}
    until(
        lambda: read(paybus, "checkouts", checkout["id"])["status"] in words,
        what=f"it is {standing}",
    )
    subscription = read(paybus, "subscriptions", checkout["subscription_id"])
    assert subscription["status"] == "incomplete"


def test_a_link_may_be_paid_after_a_first_attempt_failed(paybus: Paybus) -> None:
    checkout = start(paybus, order("fapshi"))
    settle(paybus, checkout, "failed")
    until_status(paybus, checkout, "failed")
    settle(paybus, checkout, "succeeded")
    ask_now(paybus)
    until_subscription(paybus, checkout, "active")


def test_a_page_may_be_paid_after_a_first_attempt_failed(paybus: Paybus) -> None:
    """Flutterwave does not say which attempt `verify_by_reference` returns: here the first."""
    checkout = start(paybus, order("flutterwave"))
    settle(paybus, checkout, "failed")
    until_status(paybus, checkout, "failed")
    sandbox(paybus, "POST", f"/_payments/flutterwave/_{checkout['reference']}/again")
    ask_now(paybus)
    until_subscription(paybus, checkout, "active")


def test_less_than_was_asked_for_makes_nothing_active(paybus: Paybus) -> None:
    counted = ("subscription-worker", "paybus_payments_to_return_total")
    before = paybus.metric(*counted, provider="flutterwave")
    checkout = start(paybus, order("flutterwave"))
    url = f"/_payments/flutterwave/_{checkout['reference']}/amount"
    sandbox(paybus, "PUT", url, amount="4999")
    settle(paybus, checkout)
    until_status(paybus, checkout, "underpaid")
    subscription = read(paybus, "subscriptions", checkout["subscription_id"])
    assert subscription["status"] == "incomplete"
    assert "payment_underpaid" in paybus.log("subscription-worker")
    assert paybus.metric(*counted, provider="flutterwave") == before + 1


def test_who_pays_all_of_it_after_too_little_has_paid(paybus: Paybus) -> None:
    """A second charge under the same `tx_ref` pays; the first charge has to be refunded."""
    checkout = start(paybus, order("flutterwave"))
    url = f"/_payments/flutterwave/_{checkout['reference']}"
    sandbox(paybus, "PUT", f"{url}/amount", amount="100")
    settle(paybus, checkout)
    until_status(paybus, checkout, "underpaid")
    sandbox(paybus, "PUT", f"{url}/amount", amount=str(AMOUNT))
    sandbox(paybus, "POST", f"{url}/again")
    ask_now(paybus)
    until_status(paybus, checkout, "paid")
    until_subscription(paybus, checkout, "active")
    error = read(paybus, "checkouts", checkout["id"])["error"]
    assert "paid 100 XAF" in error
    assert "refund the earlier payment" in error


@pytest.mark.parametrize("called", [True, False])
def test_a_page_that_is_paid_once_more_is_said_to_have_to_go_back(
    paybus: Paybus, called: bool
) -> None:
    """Flutterwave's `tx_ref` can be charged again. With a webhook this is seen immediately; without
    one, when the page cannot be paid any more."""
    counted = ("webhook-gateway-worker", "paybus_payments_duplicated_total")
    before = paybus.metric(*counted, provider="flutterwave")
    checkout = start(paybus, order("flutterwave"))
    settle(paybus, checkout)
    until_status(paybus, checkout, "paid")
    subscription = until_subscription(paybus, checkout, "active")
    sandbox(paybus, "PUT", "/_delivery", drop=0 if called else 1)
    sandbox(paybus, "POST", f"/_payments/flutterwave/_{checkout['reference']}/again")
    for _ in range(2):
        ask_now(paybus)

        def error() -> str:
            return str(read(paybus, "checkouts", checkout["id"])["error"])

        until(lambda: "paid once more" in error(), what="it is said what has to go back")
        assert f"refund {AMOUNT} XAF" in error()
    sandbox(paybus, "PUT", "/_delivery", drop=0)
    kept = paybus.api(
        "GET", "subscription", f"/v1/payments?customer_id={checkout['customer_id']}"
    ).json()["items"]
    assert [each["amount"] for each in kept] == [AMOUNT, AMOUNT]
    assert paybus.metric(*counted, provider="flutterwave") == before + 1
    now = read(paybus, "subscriptions", checkout["subscription_id"])
    assert now["current_period_end"] == subscription["current_period_end"], "it buys nothing"


def test_money_that_no_checkout_asked_for_is_kept_and_said(paybus: Paybus) -> None:
    """After a restore, the database may have lost the checkouts that customers are paying for."""
    counted = ("subscription-worker", "paybus_payments_unclaimed_total")
    before = paybus.metric(*counted, provider="fapshi")
    checkout = start(paybus, order("fapshi"))
    paybus.sql("subscription", "DELETE FROM checkouts WHERE id = %s", checkout["id"])
    settle(paybus, checkout)
    query = "SELECT paid FROM payments WHERE provider_payment_id = %s"
    reference = checkout["reference"]
    until(
        lambda: paybus.sql("subscription", query, reference) == [(True,)],
        what="it is kept",
    )
    assert paybus.metric(*counted, provider="fapshi") == before + 1
    assert "payment_without_checkout" in paybus.log("subscription-worker")


def test_a_payment_for_no_plan_is_kept_with_its_customer(paybus: Paybus) -> None:
    checkout = start(paybus, order("fapshi", plan=None))
    settle(paybus, checkout)
    until_status(paybus, checkout, "paid")
    assert checkout["subscription_id"] is None
    listed = paybus.api(
        "GET", "subscription", f"/v1/payments?customer_id={checkout['customer_id']}"
    )
    (payment,) = listed.json()["items"]
    assert (payment["paid"], payment["amount"], payment["provider"]) == (True, AMOUNT, "fapshi")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_same_request_again_is_the_same_checkout(paybus: Paybus, provider: str) -> None:
    request, key = order(provider), uuid4().hex
    first = start(paybus, request, key=key)
    before = len(payments_at(paybus, provider))
    assert start(paybus, request, key=key) == first
    assert len(payments_at(paybus, provider)) == before


def test_a_key_is_for_one_request(paybus: Paybus) -> None:
    request, key = order("fapshi"), uuid4().hex
    start(paybus, request, key=key)
    answer = post(paybus, request | {"amount": AMOUNT + 1}, key=key)
    assert answer.status_code == 409
    assert "was used for another request" in answer.json()["detail"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_many_at_once_with_one_key_are_one_checkout(paybus: Paybus, provider: str) -> None:
    request, key = order(provider), uuid4().hex
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: start(paybus, request, key=key), range(6)))
    assert all(each == answers[0] for each in answers)
    settle(paybus, answers[0])
    until_subscription(paybus, answers[0], "active")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("mode", ["fail_after", "hang_after"])
def test_an_unknown_outcome_is_continued_by_the_same_key(
    paybus: Paybus, provider: str, mode: str
) -> None:
    request, key = order(provider), uuid4().hex
    sandbox(paybus, "PUT", "/_behaviour", mode=mode)
    answer = post(paybus, request, key=key)
    assert answer.status_code == 502
    assert "same Idempotency-Key again" in answer.json()["detail"]
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    checkout = start(paybus, request, key=key)
    settle(paybus, checkout)
    until_subscription(paybus, checkout, "active")
    until_told(paybus, checkout, "activated")


def test_a_payer_is_asked_once_although_the_answer_was_lost(paybus: Paybus) -> None:
    """MTN asks the payer without a page: no payer may have to pay twice."""
    request, key = order("mtn-momo"), uuid4().hex
    start_and_lose(paybus, request, key)
    before = len(payments_at(paybus, "mtn-momo"))
    checkout = start(paybus, request, key=key)
    payments = payments_at(paybus, "mtn-momo")
    assert len(payments) == before
    assert checkout["reference"] == payments[-1]["reference"]


def test_who_paid_is_active_although_we_never_learned_that_it_was_started(paybus: Paybus) -> None:
    """No response, no callback, no second attempt: MTN's payer may still have confirmed."""
    deliver(paybus, drop=1)
    request = order("mtn-momo")
    start_and_lose(paybus, request, uuid4().hex)
    listed = paybus.api("GET", "subscription", "/v1/checkouts?status=starting&provider=mtn-momo")
    checkout = listed.json()["items"][0]
    settle(paybus, checkout)
    until(lambda: _watched(paybus, checkout), what="it is watched")
    ask_now(paybus)
    until_subscription(paybus, checkout, "active")


def test_a_payer_is_asked_once_although_the_database_has_forgotten_it(paybus: Paybus) -> None:
    """docs/runbooks/restore.md: the caller repeats the request, and the payer has paid."""
    request, key = order("mtn-momo"), uuid4().hex
    first = start(paybus, request, key=key)
    paybus.sql("subscription", "DELETE FROM checkouts WHERE id = %s", first["id"])
    before = len(payments_at(paybus, "mtn-momo"))
    again = start(paybus, request, key=key)
    assert again["reference"] == first["reference"]
    assert len(payments_at(paybus, "mtn-momo")) == before
    settle(paybus, again)
    until_subscription(paybus, again, "active")


def start_and_lose(paybus: Paybus, request: dict[str, Any], key: str) -> None:
    """The provider executes the request, its response is lost; MTN's token is fetched before."""
    start(paybus, order("mtn-momo"))
    sandbox(paybus, "PUT", "/_behaviour", mode="hang_after")
    assert post(paybus, request, key=key).status_code == 502
    sandbox(paybus, "PUT", "/_behaviour", mode="well")


def _watched(paybus: Paybus, checkout: dict[str, Any]) -> bool:
    query = "SELECT 1 FROM pending_payments WHERE reference = %s AND announced"
    return bool(paybus.sql("webhook-gateway", query, checkout["reference"]))


def test_a_currency_with_cents_can_be_asked_about(paybus: Paybus) -> None:
    checkout = start(paybus, order("orange-money", amount=5000, currency="EUR"))
    settle(paybus, checkout)
    until_subscription(paybus, checkout, "active")


def test_a_refusal_after_an_unknown_outcome_is_none(paybus: Paybus) -> None:
    """The first attempt may have reached the payer: a new key would ask the payer again."""
    request, key = order("mtn-momo"), uuid4().hex
    start_and_lose(paybus, request, key)
    before = len(payments_at(paybus, "mtn-momo"))
    sandbox(paybus, "PUT", "/_behaviour", mode="refuse")
    answer = post(paybus, request, key=key)
    assert answer.status_code == 502
    assert "may have reached the payer" in answer.json()["detail"]
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    start(paybus, request, key=key)
    assert len(payments_at(paybus, "mtn-momo")) == before


def test_a_later_attempt_is_watched_for_as_long_as_the_first(paybus: Paybus) -> None:
    request, key = order("mtn-momo"), uuid4().hex
    start_and_lose(paybus, request, key)
    checkout = start(paybus, request, key=key)
    query = "SELECT expires_at FROM pending_payments WHERE reference = %s"
    until(
        lambda: (
            [checkout["expires_at"]]
            == [
                row[0].isoformat().replace("+00:00", "Z")
                for row in paybus.sql("webhook-gateway", query, checkout["reference"])
            ]
        ),
        what="it is watched until the second attempt's end",
    )


def test_a_row_of_a_version_that_knew_more_is_served(paybus: Paybus) -> None:
    request, key = order("fapshi"), uuid4().hex
    checkout = start(paybus, request, key=key)
    paybus.sql(
        "subscription",
        """UPDATE checkouts SET terms = terms || '{"field_to_come": 1}' WHERE id = %s""",
        checkout["id"],
    )
    assert start(paybus, request, key=key) == checkout
    settle(paybus, checkout)
    until_subscription(paybus, checkout, "active")


def test_a_payment_of_another_account_pays_nothing(paybus: Paybus) -> None:
    """A test account may name a live checkout."""
    checkout = start(paybus, order("flutterwave"))
    settle(paybus, checkout)
    until_status(paybus, checkout, "paid")
    (told,) = [
        each
        for each in paybus.journal()
        if each["type"] == "payment.succeeded" and each["data"]["payment_id"] == checkout["id"]
    ]
    other = start(paybus, order("flutterwave"))
    forged = told | {"id": uuid4().hex, "source": "/webhook-gateway/flutterwave/sandbox"}
    forged["data"] = told["data"] | {"payment_id": other["id"], "references": []}
    paybus.publish_to("payments", "payment.succeeded", json.dumps(forged))
    query = "SELECT 1 FROM payments WHERE provider_payment_id = %s"
    until(lambda: bool(paybus.sql("subscription", query, other["id"])), what="it is kept")
    assert read(paybus, "checkouts", other["id"])["status"] == "pending"


def test_a_refusal_is_kept_and_said(paybus: Paybus) -> None:
    request, key = order("orange-money"), uuid4().hex
    sandbox(paybus, "PUT", "/_behaviour", mode="refuse")
    first = post(paybus, request, key=key)
    assert first.status_code == 422
    assert "orange-money answers 422: refuse on request" in first.json()["detail"]
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    assert post(paybus, request, key=key).json()["detail"] == first.json()["detail"]
    listed = paybus.api("GET", "subscription", "/v1/checkouts?status=refused").json()["items"]
    assert [each["error"] for each in listed] == [first.json()["detail"]]


def test_a_provider_that_is_asked_too_often_is_no_refusal(paybus: Paybus) -> None:
    request, key = order("fapshi"), uuid4().hex
    sandbox(paybus, "PUT", "/_behaviour", mode="rate_limit")
    answer = post(paybus, request, key=key)
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    start(paybus, request, key=key)


def test_a_process_that_dies_while_it_waits_loses_nothing(paybus: Paybus) -> None:
    request, key = order("mtn-momo"), uuid4().hex
    start(paybus, order("mtn-momo"))
    before = len(payments_at(paybus, "mtn-momo"))
    sandbox(paybus, "PUT", "/_behaviour", mode="hang_after")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(post, paybus, request, key=key)
        until(lambda: len(payments_at(paybus, "mtn-momo")) > before, what="MTN has it")
        paybus.system.processes["subscription-api"].kill()
        assert call.exception() is not None
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    paybus.start("subscription-api")
    checkout = start(paybus, request, key=key)
    assert len(payments_at(paybus, "mtn-momo")) == before + 1
    settle(paybus, checkout)
    until_subscription(paybus, checkout, "active")


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"provider": "mtn-momo", "customer": {"reference": "a"}}, 400, "requires customer.phone"),
        ({"provider": "flutterwave", "return_url": None}, 400, "requires return_url"),
        ({"provider": "fapshi", "amount": 99}, 400, "at least 100"),
        ({"provider": "fapshi", "currency": "EUR"}, 400, "accepts XAF"),
        ({"provider": "orange-money", "currency": "EUR", "amount": 50}, 400, "whole amounts only"),
        ({"provider": "fapshi", "account": "paris"}, 400, "no account fapshi/paris"),
        ({"provider": "fapshi", "amount": None}, 422, "amount and currency must be given together"),
        ({"provider": "stripe"}, 422, "has its price there"),
        ({"provider": "plaid"}, 422, "Input should be"),
        ({"provider": "fapshi", "amount": 2**60}, 422, "less than or equal"),
        ({"provider": "fapshi", "customer": {"reference": "a b"}}, 422, "match pattern"),
    ],
)
def test_what_can_not_be_started_is_said_and_leaves_no_checkout(
    paybus: Paybus, change: dict[str, Any], status: int, said: str
) -> None:
    before = paybus.sql("subscription", "SELECT count(*) FROM checkouts")
    answer = post(paybus, order("fapshi") | change)
    assert answer.status_code == status
    assert said in answer.text
    assert paybus.sql("subscription", "SELECT count(*) FROM checkouts") == before


def test_a_checkout_belongs_to_its_tenant(paybus: Paybus) -> None:
    checkout = start(paybus, order("fapshi"))
    path = f"/v1/checkouts/{checkout['id']}"
    assert paybus.api("GET", "subscription", path, tenant="other").status_code == 404
    answer = post(paybus, order("fapshi"), tenant="other")
    assert (answer.status_code, "'other' has no account" in answer.text) == (400, True)


def test_who_may_only_look_can_not_start_one(paybus: Paybus) -> None:
    assert post(paybus, order("fapshi"), role="viewer").status_code == 403


def test_no_secret_of_an_account_is_in_the_log(paybus: Paybus) -> None:
    assert "_api_development" not in paybus.log("subscription-api")

"""Marketplace orders: paid by checkout, cancelled in time, split among sellers, refunded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from common.clients.accounts_file import DEFAULT, gateway_source
from common.contracts.payments import (
    CheckoutStatusChanged,
    Contact,
    PaymentOutcome,
    RefundRequested,
)
from common.messaging.events import new_event
from conftest import MakePaybus
from devstack.processes.system import introduce
from support import payouts
from support.billing import stripe
from support.mobile_money import ask_now, sandbox
from support.orders import (
    PROCESSES,
    QUICK,
    a_seller,
    an_order,
    balance_of,
    call,
    dispute,
    done,
    intent_of,
    line,
    paid_to,
    pay,
    place,
    refunds_at_stripe,
    see,
    set_terms,
    start_payment,
    until_held,
    until_refunds,
    until_state,
)
from support.paybus import Paybus
from support.stripe_events import stripe_event
from support.waiting import until


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    options = {"payout_options": payouts.OPTIONS}
    with make_paybus(PROCESSES, **options, **QUICK) as paybus:
        introduce(paybus.layout)
        yield paybus


@pytest.fixture(autouse=True)
def _terms(paybus: Paybus) -> None:
    set_terms(paybus)


def test_an_order_of_two_sellers_is_paid_fulfilled_and_paid_out(paybus: Paybus) -> None:
    ama, kofi = a_seller(paybus), a_seller(paybus)
    order = place(paybus, line(ama, 1005), line(kofi, 250, quantity=3), line(ama, 1))
    assert (order["total"], order["state"]) == (1756, "placed")
    payment = start_payment(paybus, order)
    assert payment["url"].startswith("http")
    assert see(paybus, order)["state"] == "awaiting_payment"
    pay(paybus, payment)
    paid = until_state(paybus, order, "paid")
    assert [each["decision"] for each in paid["payments"]] == ["accepted"]
    done(paybus, "POST", f"orders/{order['id']}/fulfil")
    completed = until_state(paybus, order, "completed")
    owed = {each["seller"]: each["owed"] for each in completed["shares"]}
    assert owed == {ama: 906 - 1, kofi: 675}, "1006 and 750, less a tenth, rounded half to even"
    assert sum(each["fee"] + each["owed"] for each in completed["shares"]) == 1756
    for seller, amount in owed.items():
        until(lambda: paid_to(paybus, seller) == amount, what=f"{seller} is paid", pause=0.2)


def pay_more(paybus: Paybus, checkout: dict[str, Any], amount: int) -> None:
    """Charge the payment page once more, by this amount."""
    url = f"/_payments/flutterwave/_{checkout['reference']}"
    sandbox(paybus, "PUT", f"{url}/amount", amount=str(amount))
    sandbox(paybus, "POST", f"{url}/again")
    ask_now(paybus)


def test_an_order_whose_buyer_pays_all_of_it_after_too_little_is_paid(paybus: Paybus) -> None:
    """Further charges on the same page pay the order; every other charge is refunded."""
    set_terms(paybus, currency="XAF")
    order = place(paybus, line("ama", 5000))
    payment = start_payment(paybus, order, "flutterwave")
    checkout = paybus.api("GET", "subscription", f"/v1/checkouts/{payment['id']}").json()
    url = f"/_payments/flutterwave/_{checkout['reference']}"
    sandbox(paybus, "PUT", f"{url}/amount", amount="100")
    pay(paybus, payment)

    def verdicts() -> list[str]:
        return [str(each["decision"]) for each in see(paybus, order)["payments"]]

    until(lambda: verdicts() == ["wrong"], what="it is too little")
    pay_more(paybus, checkout, 2000)
    until(lambda: verdicts() == ["wrong", "wrong"], what="that is too little, too")
    pay_more(paybus, checkout, 5000)
    until(lambda: see(paybus, order)["state"] == "paid", what="it is paid")
    pay_more(paybus, checkout, 5001)
    until(
        lambda: sorted(verdicts()) == ["accepted", "double", "wrong", "wrong"], what="it is double"
    )
    returned = sorted(each["amount"] for each in see(paybus, order)["refunds"])
    assert returned == [100, 2000, 5001]
    asked = "SELECT DISTINCT checkout_id FROM refunds"
    until(
        lambda: paybus.sql("subscription", asked) == [(payment["id"],)],
        what="each is asked for, of the checkout that there is",
    )


def test_a_further_charge_that_is_heard_of_first_comes_after_the_first(paybus: Paybus) -> None:
    """On a page reported as failed, both charges are decided on, and one is refunded."""
    set_terms(paybus, currency="XAF")
    order = place(paybus, line("ama", 5000))
    payment = start_payment(paybus, order, "flutterwave")
    checkout = paybus.api("GET", "subscription", f"/v1/checkouts/{payment['id']}").json()

    def payments() -> list[tuple[str, str | None]]:
        return sorted((each["status"], each["decision"]) for each in see(paybus, order)["payments"])

    report(paybus, checkout, "payment.failed")
    until(lambda: payments() == [("failed", None)], what="it has failed")
    report(paybus, checkout, "payment.duplicated", charge="the-second")
    until(
        lambda: "was received before the first one" in paybus.log("subscription-worker"),
        what="it waits",
    )
    report(paybus, checkout, "payment.succeeded")
    both = [("paid", "accepted"), ("paid", "double")]
    until(lambda: payments() == both, what="both are judged")
    assert [each["amount"] for each in see(paybus, order)["refunds"]] == [5000]


def report(
    paybus: Paybus, checkout: dict[str, Any], type_: str, *, charge: str | None = None
) -> None:
    """Publish the gateway's report of 5000 XAF at Flutterwave; `charge` is a further one."""
    event = new_event(
        id=uuid4().hex,
        type=type_,
        source=gateway_source("flutterwave", DEFAULT),
        subject=checkout["reference"],
        tenant="default",
        data=PaymentOutcome(
            provider="flutterwave",
            payment_id=charge or checkout["reference"],
            references=[checkout["reference"]] if charge else [],
            customer_id=None,
            contact=Contact(),
            amount=5000,
            currency="XAF",
        ),
    )
    paybus.publish_to("payments", type_, event.encode().decode())


def test_the_same_request_is_one_order_and_one_checkout(paybus: Paybus) -> None:
    wanted = an_order(line("ama", 500))
    first = done(paybus, "POST", "orders", json=wanted, key="the-same")
    assert done(paybus, "POST", "orders", json=wanted, key="the-same")["id"] == first["id"]
    other = call(paybus, "POST", "orders", json=wanted | {"reference": "x"}, key="the-same")
    assert other.status_code == 409
    body = {"provider": "stripe", "return_url": "https://shop.example.com/"}
    path = f"orders/{first['id']}/payments"
    ids = {done(paybus, "POST", path, json=body, key="again")["id"] for _ in range(2)}
    assert len(ids) == 1
    assert call(paybus, "GET", f"orders/{first['id']}", tenant="other").status_code == 404
    assert call(paybus, "POST", "orders", json=wanted, role="viewer").status_code == 403
    refused = call(paybus, "POST", path, json=body | {"account": "unknown"})
    assert (refused.status_code, "unknown" in refused.text) == (400, True)


def test_an_unpaid_order_is_reminded_of_then_cancelled(paybus: Paybus) -> None:
    set_terms(paybus, grace_seconds=3, reminder_seconds=2)
    paybus.tap("orders", "order.*")
    order = place(paybus, line("ama", 500))
    cancelled = until_state(paybus, order, "cancelled")
    assert (cancelled["cancelled_by"], cancelled["paid_at"]) == (None, None)

    def told() -> list[str]:
        mine = (each for each in paybus.tapped() if each["subject"] == order["id"])
        return [each["type"] for each in mine]

    wanted = ["order.placed", "order.payment_due", "order.cancelled"]
    until(lambda: told() == wanted, what="it was told of")
    late = call(paybus, "POST", f"orders/{order['id']}/payments", json={"provider": "stripe"})
    assert late.status_code == 409


@pytest.mark.parametrize(("rule", "state"), [("refund", "cancelled"), ("reopen", "paid")])
def test_a_late_payment_is_settled_by_the_rule(paybus: Paybus, rule: str, state: str) -> None:
    set_terms(paybus, grace_seconds=2, reminder_seconds=0, late_payment=rule, holding_seconds=60)
    order = place(paybus, line("ama", 500))
    payment = start_payment(paybus, order)
    until_state(paybus, order, "cancelled")
    pay(paybus, payment)
    until(
        lambda: see(paybus, order)["payments"][0]["decision"],
        what="the payment is judged",
    )
    found = until_state(paybus, order, state)
    if rule == "reopen":
        assert (found["refunds"], found["cancelled_at"]) == ([], None)
        return
    (refund,) = until_refunds(paybus, order, "succeeded")
    assert refund["reason"] == "paid after the order was cancelled"
    assert refunds_at_stripe(paybus, payment) == [500]


@pytest.mark.parametrize("provider", ["fapshi", "flutterwave"])
def test_a_payment_in_time_that_is_heard_of_late_keeps_the_order(
    paybus: Paybus, provider: str
) -> None:
    """The payment's time is the provider's, not the time of our status query."""
    late = {"grace_seconds": 6, "reminder_seconds": 0, "late_payment": "refund"}
    set_terms(paybus, currency="XAF", holding_seconds=60, **late)
    order = place(paybus, line("ama", 500))
    pay(paybus, start_payment(paybus, order, provider), silently=True)
    paybus.sql(
        "webhook-gateway", "UPDATE pending_payments SET next_poll_at = now() + interval '1 hour'"
    )
    until_state(paybus, order, "cancelled")
    ask_now(paybus)
    paid = until_state(paybus, order, "paid")
    assert [each["decision"] for each in paid["payments"]] == ["reopened"]
    assert paid["refunds"] == []


def test_an_order_that_is_paid_twice_gets_one_payment_back(paybus: Paybus) -> None:
    order = place(paybus, line("ama", 500))
    payments = [start_payment(paybus, order) for _ in range(2)]
    for payment in payments:
        pay(paybus, payment)
    until_refunds(paybus, order, "succeeded")
    found = see(paybus, order)
    assert sorted(each["decision"] for each in found["payments"]) == ["accepted", "double"]
    assert sum(sum(refunds_at_stripe(paybus, each)) for each in payments) == 500


def settled(order: dict[str, Any], checkout: str, status: str, amount: int | None) -> str:
    """Return the event by which the subscription service reports a checkout's status."""
    event = new_event(
        id=uuid4().hex,
        type="checkout.status_changed",
        source="/subscription",
        subject=checkout,
        tenant="default",
        data=CheckoutStatusChanged(
            checkout_id=checkout,
            purpose=f"order/{order['id']}",
            provider="stripe",
            account="default",
            status=status,
            amount=amount,
            currency=None if amount is None else "USD",
        ),
    )
    return event.encode().decode()


@pytest.mark.parametrize("second", ["paid", "failed"])
def test_a_checkout_is_judged_once_also_within_one_batch(paybus: Paybus, second: str) -> None:
    order, checkout = place(paybus, line("ama", 500)), uuid4().hex
    worker = paybus.system.processes["orders-worker"]
    worker.stop()  # waiting messages are delivered as one batch
    for status in ("paid", second):
        amount = 500 if status == "paid" else None
        paybus.publish_to(
            "payments", "checkout.status_changed", settled(order, checkout, status, amount)
        )
    paybus.start("orders-worker")
    until_state(paybus, order, "paid")
    until(lambda: paybus.depths()["orders.payments"] == 0, what="both are heard")
    found = see(paybus, order)
    assert [each["decision"] for each in found["payments"]] == ["accepted"]
    assert found["refunds"] == []


def stripe_behaves(paybus: Paybus, mode: str) -> None:
    url = f"{paybus.layout.url('sandbox-stripe')}/_config/behaviour"
    paybus.http.put(url, json={"mode": mode}).raise_for_status()


def test_a_refund_that_fails_after_it_was_made_is_tried_again(paybus: Paybus) -> None:
    """The payer's card is closed: Stripe returns the money days later, three times."""
    order = place(paybus, line("ama", 500))
    payment = start_payment(paybus, order)
    pay(paybus, payment)
    until_state(paybus, order, "paid")
    done(paybus, "POST", f"orders/{order['id']}/refunds", json={"reason": "broken"})
    (refund,) = until_refunds(paybus, order, "succeeded")

    def fail() -> None:
        name = refund["provider_refund_id"]
        url = f"{paybus.layout.url('sandbox-stripe')}/_config/refunds/{name}/failed"
        paybus.http.put(url).raise_for_status()

    fail()
    (failed,) = until_refunds(paybus, order, "failed")
    assert "expired_or_canceled_card" in failed["error"]
    done(paybus, "POST", f"refunds/{refund['id']}/retry")
    (again,) = until_refunds(paybus, order, "succeeded")
    assert again["provider_refund_id"] != refund["provider_refund_id"]
    fail()
    until(lambda: paybus.depths()["subscription.billing"] == 0, what="all of it is heard")
    until(lambda: paybus.depths()["orders.payments"] == 0, what="all of it is heard")
    (now,) = see(paybus, order)["refunds"]
    assert now["state"] == "succeeded", "what is said of the first one is not of the second"
    assert sum(refunds_at_stripe(paybus, payment)) == 500


@pytest.mark.parametrize("mode", ["fail_after", "fail"])
def test_a_refund_of_which_nobody_knows_is_tried_again_and_made_once(
    paybus: Paybus, mode: str
) -> None:
    order = place(paybus, line("ama", 500))
    payment = start_payment(paybus, order)
    pay(paybus, payment)
    until_state(paybus, order, "paid")
    stripe_behaves(paybus, mode)
    try:
        path = f"orders/{order['id']}/refunds"
        refund = done(paybus, "POST", path, json={"reason": "returned"})
        if mode == "fail":
            until_refunds(paybus, order, "unknown")
    finally:
        stripe_behaves(paybus, "well")
    if mode == "fail":
        refused = call(paybus, "POST", f"refunds/{refund['id']}/confirm")
        assert refused.status_code == 409, "it may have been made"
        done(paybus, "POST", f"refunds/{refund['id']}/retry")
    until_refunds(paybus, order, "succeeded")
    assert refunds_at_stripe(paybus, payment) == [500]


def test_a_refund_in_part_reduces_what_sellers_get(paybus: Paybus) -> None:
    set_terms(paybus, holding_seconds=4)
    ama, kofi = a_seller(paybus), a_seller(paybus)
    order = place(paybus, line(ama, 1000), line(kofi, 501))
    payment = start_payment(paybus, order)
    pay(paybus, payment)
    until_state(paybus, order, "paid")
    path = f"orders/{order['id']}/refunds"
    first = done(paybus, "POST", path, json={"amount": 301, "reason": "late"}, key="one")
    again = done(paybus, "POST", path, json={"amount": 301, "reason": "late"}, key="one")
    assert (first["id"], sum(first["parts"].values())) == (again["id"], 301)
    wanted = {"amount": 100, "seller": kofi, "reason": "broken"}
    done(paybus, "POST", path, json=wanted)
    too_much = call(paybus, "POST", path, json={"amount": 1101, "reason": "?"})
    assert (too_much.status_code, "1100 USD" in too_much.text) == (409, True)
    until_refunds(paybus, order, "succeeded", "succeeded")
    assert sorted(refunds_at_stripe(paybus, payment)) == [100, 301]
    shares = {each["seller"]: each for each in see(paybus, order)["shares"]}
    assert shares[ama]["refunded"] + shares[kofi]["refunded"] == 401
    for seller, share in shares.items():
        until(lambda: paid_to(paybus, seller) == share["owed"], what=f"{seller} gets the rest")


def test_a_refund_after_the_payout_is_taken_back_from_later_earnings(paybus: Paybus) -> None:
    ama = a_seller(paybus)
    order = place(paybus, line(ama, 1000))
    pay(paybus, start_payment(paybus, order))
    until(lambda: paid_to(paybus, ama) == 900, what="she is paid")
    done(paybus, "POST", f"orders/{order['id']}/refunds", json={"reason": "returned"})
    assert until_state(paybus, order, "refunded")["refunded"] == 1000
    until(lambda: balance_of(paybus, ama) == -900, what="she owes it")
    second = place(paybus, line(ama, 2000))
    pay(paybus, start_payment(paybus, second))
    until(lambda: paid_to(paybus, ama) == 1800, what="she is paid the difference")
    assert balance_of(paybus, ama) == 0


def test_where_a_provider_has_no_refunds_somebody_pays_back_by_hand(paybus: Paybus) -> None:
    set_terms(paybus, currency="XAF")
    order = place(paybus, line("ama", 5000))
    payment = start_payment(paybus, order, "fapshi")
    pay(paybus, payment)
    ask_now(paybus)
    until_state(paybus, order, "paid")
    done(paybus, "POST", f"orders/{order['id']}/refunds", json={"reason": "sold out"})
    (refund,) = until_refunds(paybus, order, "manual")
    waiting = ("orders-worker", "paybus_order_refunds_waiting")
    until(lambda: paybus.metric(*waiting, state="manual") >= 1, what="an alert can tell of it")
    listed = done(paybus, "GET", "refunds?state=manual")["items"]
    assert refund["id"] in {each["id"] for each in listed}
    confirmed = done(paybus, "POST", f"refunds/{refund['id']}/confirm")
    assert confirmed["state"] == "succeeded"
    assert call(paybus, "POST", f"refunds/{refund['id']}/confirm").status_code == 409


def test_a_refund_that_could_not_even_be_begun_is_told_to_have_failed(paybus: Paybus) -> None:
    """Otherwise the requester would wait forever, and a replay might pay a second time what was
    refunded manually meanwhile."""
    paybus.tap("payments", "refund.*")
    wanted = RefundRequested(
        refund_id=uuid4().hex,
        checkout_id="which does not exist",
        amount=500,
        currency="USD",
        reason="sold out",
    )
    event = new_event(
        id=uuid4().hex,
        type="refund.requested",
        source="/orders",
        subject=wanted.refund_id,
        tenant="default",
        data=wanted,
    )
    again = wanted.model_copy(update={"again": True})
    # The second is a replay of the first, the third an operator's retry.
    for dead, (sequence, data) in enumerate(((1, wanted), (1, wanted), (2, again)), start=1):
        asked = event.model_copy(update={"id": uuid4().hex, "sequence": sequence, "data": data})
        paybus.publish_to("payments", "refund.requested", asked.encode().decode())
        until(
            lambda: paybus.dead_letters().get("subscription.refunds.dead", 0) >= dead,
            what="it waits to be replayed",
        )

    def settled() -> list[dict[str, Any]]:
        found = (each for each in paybus.tapped() if each["type"] == "refund.completed")
        return [each["data"] for each in found if each["subject"] == wanted.refund_id]

    until(lambda: len(settled()) == 2, what="each request is answered once")
    for told in settled():
        assert (told["status"], told["amount"]) == ("failed", 500)
        assert "there is no checkout" in told["reason"]


@pytest.mark.parametrize("lost", ["request", "outcome"])
def test_a_refund_of_which_an_event_was_lost_is_requested_again(paybus: Paybus, lost: str) -> None:
    """As after the loss of all broker volumes: nothing else would end it."""
    order = place(paybus, line("ama", 3000))
    payment = start_payment(paybus, order)
    pay(paybus, payment)
    until_state(paybus, order, "paid")
    if lost == "request":
        paybus.system.processes["subscription-worker"].stop()
    done(paybus, "POST", f"orders/{order['id']}/refunds", json={"reason": "sold out"})
    if lost == "request":
        until(lambda: paybus.depths()["subscription.refunds"] == 1, what="it is requested")
        paybus.messages("subscription.refunds", remove=True)
        paybus.start("subscription-worker")
        (refund,) = until_refunds(paybus, order, "requested")
    else:
        (refund,) = until_refunds(paybus, order, "succeeded")
        paybus.sql("orders", "UPDATE refunds SET state = 'requested' WHERE id = %s", refund["id"])
    assert call(paybus, "POST", f"refunds/{refund['id']}/retry").status_code == 409, "too early"
    earlier = "UPDATE refunds SET created_at = created_at - interval '3 hours' WHERE id = %s"
    paybus.sql("orders", earlier, refund["id"])
    done(paybus, "POST", f"refunds/{refund['id']}/retry")
    until_refunds(paybus, order, "succeeded")
    assert refunds_at_stripe(paybus, payment) == [3000]


def test_a_seller_whom_payouts_does_not_know_is_a_dead_letter(paybus: Paybus) -> None:
    order = place(paybus, line("nobody-knows-them", 1000))
    pay(paybus, start_payment(paybus, order))
    until(
        lambda: "payouts.requests.dead" in paybus.dead_letters(),
        what="what they earned waits to be replayed",
    )


def test_prices_in_other_currencies_are_converted_by_a_day_s_rate(paybus: Paybus) -> None:
    done(paybus, "GET", "rates")
    rates = {"USD": "1.25", "GBP": "0.8", "NGN": "1750"}
    sandbox(paybus, "PUT", "/_rates", rates=rates, fails=[])
    run = paybus.api("POST", "orders", "/v1/schedules/rates/run")
    assert run.status_code == 202, run.text

    def stored() -> dict[str, Any]:
        answer = call(paybus, "GET", "rates")
        return {each["source"]: each["rates"] for each in answer.json()}

    until(lambda: stored().keys() == {"ecb", "json"}, what="both sources have rates")
    assert "NGN" not in stored()["ecb"]
    order = place(paybus, line("ama", 1000, currency="GBP"), line("ama", 100, currency="XAF"))
    first, second = order["lines"]
    assert (first["amount"], first["rate"], first["rate_source"]) == (1562, "1.5625", "ecb")
    assert second["amount"] == 19, "100 XAF are 0.15245 EUR are 0.19056 USD"
    again = {name: str(float(rate) * 2) for name, rate in rates.items()}
    sandbox(paybus, "PUT", "/_rates", rates=again, fails=["ecb"])
    paybus.api("POST", "orders", "/v1/schedules/rates/run")
    until(
        lambda: "0 new rates" in str(done_job(paybus, "rates")["last_result"]),
        what="the job ran again, and overwrote nothing",
    )
    assert stored()["json"]["USD"] == "1.25"
    found = done(paybus, "GET", "rates/convert?amount=1000&from=GBP&to=NGN")
    assert (found["amount"], found["source"]) == (2_187_500, "json")
    old = call(paybus, "GET", "rates/convert?amount=1000&from=GBP&to=USD&day=2020-01-01")
    assert (old.status_code, "run the job `rates`" in old.text) == (409, True)
    missing = call(paybus, "POST", "orders", json=an_order(line("ama", 1, currency="BRL")))
    assert (missing.status_code, "no rate from BRL to USD" in missing.text) == (409, True)


def done_job(paybus: Paybus, name: str) -> dict[str, Any]:
    jobs = paybus.api("GET", "orders", "/v1/schedules").json()
    return next(each for each in jobs if each["name"] == name)


def test_sellers_earnings_are_reported_in_the_tenant_s_currency(paybus: Paybus) -> None:
    ama = a_seller(paybus)
    for price in (1000, 3000):
        pay(paybus, start_payment(paybus, place(paybus, line(ama, price))))
    query = "reports/sellers?since=2026-01-01T00:00:00Z&until=2040-01-01T00:00:00Z"

    def report(more: str = "") -> dict[str, Any]:
        answer = call(paybus, "GET", query + more)
        assert answer.is_success, answer.text
        return next((each for each in answer.json() if each["seller"] == ama), {})

    until(lambda: report().get("orders") == 2, what="both are paid")
    found = report()
    assert (found["gross"], found["fees"], found["owed"]) == (4000, 400, 3600)
    assert report("&in_own_currency=true")["currency"] == "USD"


def test_what_is_refunded_at_the_provider_is_held_back_from_the_sellers(paybus: Paybus) -> None:
    """A refund that was made in Stripe's dashboard, beside one that Paybus made."""
    set_terms(paybus, holding_seconds=3600)
    order = place(paybus, line("ama", 600), line("yaw", 400))
    payment = start_payment(paybus, order)
    pay(paybus, payment)
    until_state(paybus, order, "paid")
    request = {"amount": 100, "reason": "late"}
    done(paybus, "POST", f"orders/{order['id']}/refunds", json=request)
    until_refunds(paybus, order, "succeeded")
    until(lambda: see(paybus, order)["reversals"], what="Stripe's report of it is here")
    assert see(paybus, order)["held"] == 0, "it is our own"
    intent = intent_of(paybus, payment)["id"]
    made = stripe(paybus, "POST", "refunds", payment_intent=intent, amount=300)
    found = until_held(paybus, order, 300, ama=180, yaw=120)
    assert [(each["kind"], each["amount"]) for each in found["reversals"]] == [("refund", 400)]
    owed = {each["seller"]: each["owed"] for each in found["shares"]}
    assert owed == {"ama": (600 - 60 - 180) * 9 // 10, "yaw": (400 - 40 - 120) * 9 // 10}
    too_much = call(
        paybus, "POST", f"orders/{order['id']}/refunds", json={"amount": 601, "reason": "?"}
    )
    assert too_much.status_code == 409
    assert "600 USD (minor units) are left to refund; 300 are disputed" in too_much.text
    fail = f"{paybus.layout.url('sandbox-stripe')}/_config/refunds/{made['id']}/failed"
    paybus.http.put(fail).raise_for_status()
    until_held(paybus, order, 0, ama=0, yaw=0)


def test_a_dispute_holds_the_sellers_earnings_until_it_is_won(paybus: Paybus) -> None:
    set_terms(paybus, holding_seconds=3600)
    paybus.tap("orders", "order.hold_changed")
    order = place(paybus, line("ama", 600), line("yaw", 400))
    payment = start_payment(paybus, order)
    pay(paybus, payment)
    until_state(paybus, order, "paid")
    dispute(paybus, payment, "warning_needs_response")
    until(lambda: see(paybus, order)["reversals"], what="the inquiry is shown")
    assert see(paybus, order)["held"] == 0, "a bank that asks has taken nothing"
    for status, shown, held in (
        ("needs_response", "open", 1000),
        ("won", "won", 0),
    ):
        dispute(paybus, payment, status)
        found = until_held(paybus, order, held, ama=held * 6 // 10, yaw=held * 4 // 10)
        assert [each["status"] for each in found["reversals"]] == [shown]
    changes = [
        each["data"]["held"]
        for each in paybus.tapped()
        if (each["type"], each["subject"]) == ("order.hold_changed", order["id"])
    ]
    assert changes == [1000, 0]


def test_a_dispute_after_the_payout_is_taken_back_and_credited_again_when_won(
    paybus: Paybus,
) -> None:
    ama = a_seller(paybus)
    order = place(paybus, line(ama, 1000))
    payment = start_payment(paybus, order)
    pay(paybus, payment)
    until(lambda: paid_to(paybus, ama) == 900, what="she is paid")
    dispute(paybus, payment, "needs_response", amount=500)
    until(lambda: balance_of(paybus, ama) == -450, what="she owes what is disputed")
    dispute(paybus, payment, "won")
    until(lambda: balance_of(paybus, ama) == 0, what="she has it again")
    assert see(paybus, order)["held"] == 0


def test_a_dispute_that_is_reported_before_its_payment_is_held_too(paybus: Paybus) -> None:
    """The order's queue stands still while the payment and its dispute are reported."""
    set_terms(paybus, holding_seconds=3600)
    order = place(paybus, line("ama", 1000))
    payment = start_payment(paybus, order)
    checkout = paybus.api("GET", "subscription", f"/v1/checkouts/{payment['id']}").json()
    name = uuid4().hex[:10]
    thing = {"id": f"du_{name}", "object": "dispute", "amount": 1000, "currency": "usd",
             "charge": f"ch_{name}", "payment_intent": f"pi_{name}", "reason": "fraudulent",
             "status": "needs_response"}  # fmt: skip
    session = {"id": checkout["reference"], "object": "checkout.session", "mode": "payment",
               "payment_status": "paid", "payment_intent": f"pi_{name}", "amount_total": 1000,
               "currency": "usd", "metadata": {"paybus_checkout": checkout["id"]}}  # fmt: skip
    for kind, snapshot in (
        ("charge.dispute.created", thing),
        ("checkout.session.completed", session),
    ):
        event = stripe_event(kind, snapshot, created=int(time.time()))
        assert paybus.send(event).status_code == 200
        until(lambda: paybus.depths()["subscription.billing"] == 0, what="it is taken")
    until_state(paybus, order, "paid")
    until_held(paybus, order, 1000, ama=1000)

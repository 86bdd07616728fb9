"""Each billing command against an independent implementation of Stripe's API, up to its webhook."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from conftest import MakePaybus
from devstack.processes.system import introduce
from support.billing import (
    BAD_CARD,
    PROCESSES,
    a_card,
    a_customer,
    an_open_invoice,
    behave,
    call,
    done,
    move,
    offer,
    offer_plan,
    price,
    stripe,
    subscriptions,
    until_confirmed,
    until_seen,
)
from support.checkouts import order, settle, start, until_subscription
from support.mobile_money import ask_now
from support.paybus import Paybus
from support.waiting import poll, until

_QUICK = {
    "PROVIDER_TIMEOUT_SECONDS": "1",
    "RENEWALS_INTERVAL_SECONDS": "1",
    "BILLING_QUIET_SECONDS": "0",
}


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(**_QUICK) as paybus:
        accounts = paybus.layout.accounts
        key = 'api_key = "sk_test_development"'
        text = accounts.read_text()
        assert key in text
        accounts.write_text(text.replace(key, f"{key}\ncircuit_reset_seconds = 3"))
        paybus.start(*PROCESSES)
        introduce(paybus.layout)
        offer(paybus)
        offer_plan(paybus, "platinum", 3000)
        offer_plan(paybus, "bronze", 500)
        offer_plan(paybus, "gold-yearly", 20000, interval="year")
        yield paybus


def test_a_customer_subscribes_with_a_trial_and_a_coupon(paybus: Paybus) -> None:
    theirs, customer, _ = a_customer(paybus)
    wanted = {"plan_id": "gold", "trial_days": 14, "coupon": "half"}
    path = f"customers/{customer}/subscriptions"
    command = done(paybus, "POST", path, json=wanted, key="subscribe-1")
    assert done(paybus, "POST", path, json=wanted, key="subscribe-1")["id"] == command["id"]
    other = call(paybus, "POST", path, json=wanted | {"trial_days": 0}, key="subscribe-1")
    assert other.status_code == 409
    until_confirmed(paybus, command)
    listed = stripe(paybus, "GET", f"subscriptions?customer={theirs}&status=all")["data"]
    (made,) = [each for each in listed if price(each) == "gold"]
    assert (made["status"], made["discounts"]) == ("trialing", ["di_half"])
    entitled = f"entitlements/{theirs}"
    until(
        lambda: "gold" in {each["plan"] for each in done(paybus, "GET", entitled)["plans"]},
        what="who tries a plan may use it",
    )
    refused = call(paybus, "POST", path, json=wanted | {"coupon": "unknown"})
    assert (refused.status_code, "stripe" in refused.text) == (422, True)


def test_a_plan_is_previewed_and_changed(paybus: Paybus) -> None:
    _, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}/plan"
    preview = done(paybus, "GET", f"{path}/preview?plan_id=gold")
    assert (preview["currency"], preview["total"]) == ("USD", 1000), "2000, less what is paid"
    command = done(paybus, "POST", path, json={"plan_id": "gold"})
    until_confirmed(paybus, command)
    plan = done(paybus, "GET", f"subscriptions/{subscription}")["plan_id"]
    names = {each["id"]: each["provider_plan_id"] for each in done(paybus, "GET", "plans")["items"]}
    assert names[plan] == "gold"
    later = done(paybus, "POST", path, json={"plan_id": "silver", "when": "period_end"})
    schedule = stripe(paybus, "GET", f"subscription_schedules/{later['result']['schedule']}")
    assert [each["items"][0]["price"] for each in schedule["phases"]] == ["gold", "silver"]


def test_a_change_of_plan_keeps_the_seats_that_are_paid_for(paybus: Paybus) -> None:
    """Stripe sets a changed price's quantity to 1 unless a quantity is sent with it."""
    theirs, _, subscription = a_customer(paybus, seats=5)
    path = f"subscriptions/{subscription}/plan"
    preview = done(paybus, "GET", f"{path}/preview?plan_id=gold")
    assert preview["total"] == 5 * 1000, "2000 for each, less what is paid"
    until_confirmed(paybus, done(paybus, "POST", path, json={"plan_id": "gold"}))
    assert entitled_to(paybus, theirs) == {"gold": 5}
    later = done(paybus, "POST", path, json={"plan_id": "silver", "when": "period_end"})
    schedule = stripe(paybus, "GET", f"subscription_schedules/{later['result']['schedule']}")
    assert [int(each["items"][0]["quantity"]) for each in schedule["phases"]] == [5, 5]


def test_a_change_that_is_planned_is_taken_back_by_what_comes_after(paybus: Paybus) -> None:
    _, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}"
    later = {"plan_id": "gold", "when": "period_end"}

    def planned() -> str:
        name = done(paybus, "POST", f"{path}/plan", json=later)["result"]["schedule"]
        return str(name)

    def released(name: str) -> bool:
        status = stripe(paybus, "GET", f"subscription_schedules/{name}")["status"]
        return bool(status == "released")

    schedule = planned()
    done(paybus, "POST", f"{path}/resume")  # there is nothing to resume
    assert not released(schedule)
    done(paybus, "POST", f"{path}/plan", json={"plan_id": "silver"})  # the current plan
    assert released(schedule)
    schedule = planned()
    until_confirmed(paybus, done(paybus, "POST", f"{path}/cancel", json={}))
    assert released(schedule), "Stripe lets nobody cancel beside a schedule"


def test_a_planned_change_keeps_the_discount(paybus: Paybus) -> None:
    _, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}"
    done(paybus, "POST", f"{path}/coupon", json={"coupon": "half"})
    later = {"plan_id": "gold", "when": "period_end"}
    name = done(paybus, "POST", f"{path}/plan", json=later)["result"]["schedule"]
    phases = stripe(paybus, "GET", f"subscription_schedules/{name}")["phases"]
    assert [[d["coupon"] for d in each["discounts"]] for each in phases] == [["half"]] * 2


def test_a_planned_change_keeps_the_tax_rates(paybus: Paybus) -> None:
    _, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}"
    theirs = done(paybus, "GET", path)["provider_subscription_id"]
    rate: Any = {"display_name": "VAT", "inclusive": "false", "percentage": "20"}
    vat, reduced = (stripe(paybus, "POST", "tax_rates", **rate)["id"] for _ in range(2))
    (item,) = stripe(paybus, "GET", f"subscriptions/{theirs}")["items"]["data"]
    stripe(paybus, "POST", f"subscription_items/{item['id']}", **{"tax_rates[0]": reduced})
    stripe(paybus, "POST", f"subscriptions/{theirs}", **{"default_tax_rates[0]": vat})
    later = {"plan_id": "gold", "when": "period_end"}
    name = done(paybus, "POST", f"{path}/plan", json=later)["result"]["schedule"]
    for phase in stripe(paybus, "GET", f"subscription_schedules/{name}")["phases"]:
        assert phase["default_tax_rates"] == [vat]
        assert phase["items"][0]["tax_rates"] == [reduced]


def test_a_change_to_another_interval_begins_a_period_that_is_paid(paybus: Paybus) -> None:
    """In flexible billing, Stripe starts a new period only if requested."""
    yearly: Any = {"id": "yearly", "amount": 9000, "currency": "usd", "interval": "year"}
    stripe(paybus, "POST", "plans", **yearly, **{"product[name]": "yearly"})
    theirs, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}"
    later = {"plan_id": "yearly", "when": "period_end"}
    name = done(paybus, "POST", f"{path}/plan", json=later)["result"]["schedule"]
    phases = stripe(paybus, "GET", f"subscription_schedules/{name}")["phases"]
    assert [each.get("billing_cycle_anchor") for each in phases] == [None, "phase_start"]
    done(paybus, "POST", f"{path}/plan", json={"plan_id": "gold"})
    before = len(stripe(paybus, "GET", f"invoices?customer={theirs}")["data"])
    done(paybus, "POST", f"{path}/plan", json={"plan_id": "yearly"})
    invoices = stripe(paybus, "GET", f"invoices?customer={theirs}")["data"]
    assert len(invoices) == before + 1
    assert "yearly" in str([each["lines"] for each in invoices])


def test_a_planned_change_keeps_the_payment_method_of_the_subscription(paybus: Paybus) -> None:
    """A schedule without one uses the customer's, and with Checkout there is none."""
    theirs, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}"
    name = done(paybus, "GET", path)["provider_subscription_id"]
    own = a_card(paybus, theirs)
    stripe(paybus, "POST", f"subscriptions/{name}", default_payment_method=own)
    later = {"plan_id": "gold", "when": "period_end"}
    schedule = done(paybus, "POST", f"{path}/plan", json=later)["result"]["schedule"]
    found = stripe(paybus, "GET", f"subscription_schedules/{schedule}")
    assert found["default_settings"]["default_payment_method"] == own


@pytest.mark.parametrize(
    ("status", "invoice"),
    [("past_due", None), ("unpaid", None), ("active", "open"), ("active", "void")],
)
def test_what_was_not_paid_is_no_credit_for_another_plan(
    paybus: Paybus, status: str, invoice: str | None
) -> None:
    """Stripe credits invoiced amounts. An invoice that is sent, or voided while collection is
    paused, leaves a subscription active."""
    theirs, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}/plan"
    name = done(paybus, "GET", f"subscriptions/{subscription}")["provider_subscription_id"]
    moved = {}
    if invoice is not None:
        moved["latest_invoice"] = an_open_invoice(paybus)
    if invoice == "void":
        stripe(paybus, "POST", f"invoices/{moved['latest_invoice']}/void")
    move(paybus, name, status=status, **moved)
    for refused in (
        call(paybus, "GET", f"{path}/preview?plan_id=gold"),
        call(paybus, "GET", f"{path}/preview?plan_id=bronze"),
        call(paybus, "POST", path, json={"plan_id": "gold"}),
        call(paybus, "POST", path, json={"plan_id": "gold", "prorate": False}),
        call(paybus, "POST", path, json={"plan_id": "bronze"}),
    ):
        assert (refused.status_code, "have it paid first" in refused.text) == (422, True)
    assert gold(paybus, theirs) == []
    done(paybus, "POST", path, json={"plan_id": "bronze", "prorate": False})
    assert price(stripe(paybus, "GET", f"subscriptions/{name}")) == "bronze"


@pytest.mark.parametrize("plan", ["gold", "gold-yearly"])
@pytest.mark.parametrize("card", ["good", "declined"])
def test_a_dearer_plan_is_paid_before_it_entitles(paybus: Paybus, plan: str, card: str) -> None:
    """By Stripe's default it would be changed in both cases, and be past due with days of grace."""
    theirs, _, subscription = a_customer(paybus)
    name = done(paybus, "GET", f"subscriptions/{subscription}")["provider_subscription_id"]
    if card == "declined":
        bad = {"invoice_settings[default_payment_method]": a_card(paybus, theirs, BAD_CARD)}
        stripe(paybus, "POST", f"customers/{theirs}", **bad)
    answer = call(paybus, "POST", f"subscriptions/{subscription}/plan", json={"plan_id": plan})
    found = stripe(paybus, "GET", f"subscriptions/{name}")
    invoices = stripe(paybus, "GET", f"invoices?customer={theirs}")["data"]
    if card == "good":
        assert answer.is_success, answer.text
        assert (price(found), found["status"], len(invoices)) == (plan, "active", 2)
        assert invoices[0]["status"] == "paid"
    else:
        assert (answer.status_code, "declined" in answer.text) == (422, True)
        assert (price(found), found["status"], len(invoices)) == ("silver", "active", 1)


def test_a_refused_change_says_that_the_planned_one_is_gone(paybus: Paybus) -> None:
    """Stripe's schedule had to be released before the change could be tried."""
    theirs, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}/plan"
    done(paybus, "POST", path, json={"plan_id": "bronze", "when": "period_end"})
    bad = {"invoice_settings[default_payment_method]": a_card(paybus, theirs, BAD_CARD)}
    stripe(paybus, "POST", f"customers/{theirs}", **bad)
    refused = call(paybus, "POST", path, json={"plan_id": "gold"})
    assert (refused.status_code, "planned for the end" in refused.text) == (422, True)
    assert gold(paybus, theirs) == []


def test_a_change_for_later_takes_no_cancellation_back(paybus: Paybus) -> None:
    """A schedule lets its subscription continue after the last phase."""
    _, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}"
    done(paybus, "POST", f"{path}/cancel", json={"when": "period_end"})
    later = {"plan_id": "gold", "when": "period_end"}
    refused = call(paybus, "POST", f"{path}/plan", json=later)
    assert (refused.status_code, "resume it first" in refused.text) == (422, True)
    name = done(paybus, "GET", path)["provider_subscription_id"]
    assert stripe(paybus, "GET", f"subscriptions/{name}")["cancel_at_period_end"]


def test_what_is_paid_later_is_no_payment_method(paybus: Paybus) -> None:
    """With a bank debit, Stripe reports a subscription as active before it is paid."""
    theirs, customer, _ = a_customer(paybus)
    debit = {"type": "sepa_debit", "sepa_debit[iban]": "DE89370400440532013000"}
    owner = {"billing_details[name]": "Ama", "billing_details[email]": "ama@example.com"}
    method = stripe(paybus, "POST", "payment_methods", **debit, **owner)["id"]
    stripe(paybus, "POST", f"payment_methods/{method}/attach", customer=theirs)
    wanted = {"plan_id": "gold", "payment_method": method}
    for refused in (
        call(paybus, "POST", f"customers/{customer}/subscriptions", json=wanted),
        call(paybus, "PUT", f"customers/{customer}/payment-methods/{method}/default"),
    ):
        assert (refused.status_code, "sepa_debit" in refused.text) == (422, True), refused.text
    assert gold(paybus, theirs) == []


def test_a_trial_that_nobody_can_pay_for_ends_the_subscription(paybus: Paybus) -> None:
    _, customer, _ = a_customer(paybus)
    wanted = {"plan_id": "gold", "trial_days": 14}
    made = done(paybus, "POST", f"customers/{customer}/subscriptions", json=wanted)
    found = stripe(paybus, "GET", f"subscriptions/{made['result']['id']}")
    assert found["trial_settings"]["end_behavior"]["missing_payment_method"] == "cancel"


def test_a_change_of_plan_in_a_trial_begins_no_period(paybus: Paybus) -> None:
    yearly: Any = {"id": "in-trial", "amount": 9000, "currency": "usd", "interval": "year"}
    stripe(paybus, "POST", "plans", **yearly, **{"product[name]": "in-trial"})
    theirs, customer, _ = a_customer(paybus)
    wanted = {"plan_id": "silver", "trial_days": 14}
    made = done(paybus, "POST", f"customers/{customer}/subscriptions", json=wanted)
    until_confirmed(paybus, made)
    (subscription,) = (
        each["id"]
        for each in subscriptions(paybus, customer)
        if each["provider_subscription_id"] == made["result"]["id"]
    )
    done(paybus, "POST", f"subscriptions/{subscription}/plan", json={"plan_id": "in-trial"})
    invoices = stripe(paybus, "GET", f"invoices?customer={theirs}")["data"]
    assert "in-trial" not in str([each["lines"] for each in invoices])
    assert price(stripe(paybus, "GET", f"subscriptions/{made['result']['id']}")) == "in-trial"


def test_a_coupon_is_not_lost_to_a_planned_change(paybus: Paybus) -> None:
    """Its phase starts with the discounts that it was planned with."""
    _, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}"
    done(paybus, "POST", f"{path}/plan", json={"plan_id": "gold", "when": "period_end"})
    refused = call(paybus, "POST", f"{path}/coupon", json={"coupon": "half"})
    assert (refused.status_code, "undo it" in refused.text) == (422, True)
    done(paybus, "POST", f"{path}/plan", json={"plan_id": "silver"})
    done(paybus, "POST", f"{path}/coupon", json={"coupon": "half"})


def test_what_was_not_invoiced_yet_is_when_a_subscription_ends_now(paybus: Paybus) -> None:
    theirs, _, subscription = a_customer(paybus)
    used: Any = {"customer": theirs, "amount": 700, "currency": "usd", "description": "a proration"}
    stripe(paybus, "POST", "invoiceitems", **used)
    done(paybus, "POST", f"subscriptions/{subscription}/cancel", json={"when": "now"})
    invoices = stripe(paybus, "GET", f"invoices?customer={theirs}")["data"]
    assert 700 in [each["total"] for each in invoices]


def test_a_new_default_method_pays_for_subscriptions_that_had_their_own(paybus: Paybus) -> None:
    """Checkout assigns one to them, which Stripe prefers to the customer's."""
    theirs, customer, subscription = a_customer(paybus)
    name = done(paybus, "GET", f"subscriptions/{subscription}")["provider_subscription_id"]
    old, new = a_card(paybus, theirs), a_card(paybus, theirs)
    stripe(paybus, "POST", f"subscriptions/{name}", default_payment_method=old)
    done(paybus, "PUT", f"customers/{customer}/payment-methods/{new}/default")
    assert stripe(paybus, "GET", f"subscriptions/{name}")["default_payment_method"] == new


def test_of_two_default_methods_the_newer_holds(paybus: Paybus) -> None:
    theirs, customer, _ = a_customer(paybus)
    one, two = a_card(paybus, theirs), a_card(paybus, theirs)
    path = f"customers/{customer}/payment-methods"
    behave(paybus, "fail")
    try:
        assert call(paybus, "PUT", f"{path}/{one}/default", key="older").status_code == 503
    finally:
        behave(paybus, "well")
    done(paybus, "PUT", f"{path}/{two}/default", key="newer")
    old = call(paybus, "PUT", f"{path}/{one}/default", key="older")
    assert (old.status_code, "later command" in old.text) == (422, True)
    assert {each["id"]: each["default"] for each in done(paybus, "GET", path)}[two]


def test_a_cancellation_at_the_end_is_taken_back_and_one_now_is_not(paybus: Paybus) -> None:
    _, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}"
    until_confirmed(paybus, done(paybus, "POST", f"{path}/cancel", json={}))
    until_seen(paybus, subscription, status="active", cancel_at_period_end=True)
    until_confirmed(paybus, done(paybus, "POST", f"{path}/resume"))
    until_seen(paybus, subscription, status="active", cancel_at_period_end=False)
    until_confirmed(paybus, done(paybus, "POST", f"{path}/cancel", json={"when": "now"}))
    until_seen(paybus, subscription, status="cancelled")
    over = call(paybus, "POST", f"{path}/resume")
    assert (over.status_code, "create a new one" in over.text) == (422, True)


def test_payment_methods_are_added_chosen_and_taken_away(paybus: Paybus) -> None:
    theirs, customer, _ = a_customer(paybus)
    intent = done(paybus, "POST", f"customers/{customer}/setup-intents", key="add-card")
    secret = intent["result"]["client_secret"]
    again = done(paybus, "POST", f"customers/{customer}/setup-intents", key="add-card")
    assert again["result"]["client_secret"] == secret, "it is the same one"
    kept = done(paybus, "GET", f"commands/{intent['id']}")
    assert "client_secret" not in kept["result"], "and not kept"
    method = a_card(paybus, theirs)
    path = f"customers/{customer}/payment-methods"
    done(paybus, "PUT", f"{path}/{method}/default")
    methods = {each["id"]: each for each in done(paybus, "GET", path)}
    assert (len(methods), methods[method]["default"], methods[method]["last4"]) == (2, True, "4242")
    other_theirs, _, _ = a_customer(paybus)
    foreign = a_card(paybus, other_theirs)
    assert call(paybus, "DELETE", f"{path}/{foreign}").status_code == 422
    done(paybus, "DELETE", f"{path}/{method}")
    assert method not in {each["id"] for each in done(paybus, "GET", path)}


def test_invoices_and_the_portal(paybus: Paybus) -> None:
    _, customer, subscription = a_customer(paybus)
    (invoice,) = done(paybus, "GET", f"customers/{customer}/invoices")
    assert (invoice["status"], invoice["amount_paid"], invoice["currency"]) == ("paid", 1000, "USD")
    wanted = {"return_url": "https://shop.example.com/account"}
    portal = done(paybus, "POST", f"customers/{customer}/portal-sessions", json=wanted)
    assert portal["url"].startswith("http")
    done(paybus, "POST", f"subscriptions/{subscription}/coupon", json={"coupon": "half"})


def test_what_mobile_money_has_not_is_refused_with_what_to_do_instead(paybus: Paybus) -> None:
    checkout = start(paybus, order("fapshi"))
    settle(paybus, checkout)
    ask_now(paybus)
    subscription = until_subscription(paybus, checkout, "active")
    for path, body, instead in (
        (f"subscriptions/{subscription['id']}/plan", {"plan_id": "x"}, "start a checkout"),
        (f"customers/{subscription['customer_id']}/setup-intents", {}, "no cards"),
    ):
        refused = call(paybus, "POST", path, json=body)
        assert (refused.status_code, instead in refused.text) == (400, True), refused.text


def test_a_subscription_by_mobile_money_is_cancelled_and_goes_on(paybus: Paybus) -> None:
    wanted = order("fapshi")
    checkout = start(paybus, wanted)
    settle(paybus, checkout)
    ask_now(paybus)
    subscription = until_subscription(paybus, checkout, "active")["id"]
    path = f"subscriptions/{subscription}"
    command = done(paybus, "POST", f"{path}/cancel", json={}, key="ours-ends")
    assert (command["status"], command["confirmed_at"] is None) == ("done", False)
    assert done(paybus, "POST", f"{path}/cancel", json={}, key="ours-ends") == command
    other = call(paybus, "POST", f"{path}/cancel", json={"when": "now"}, key="ours-ends")
    assert other.status_code == 409
    until_seen(paybus, subscription, status="active", cancel_at_period_end=True)
    done(paybus, "POST", f"{path}/resume")
    until_seen(paybus, subscription, status="active", cancel_at_period_end=False)
    done(paybus, "POST", f"{path}/cancel", json={"when": "now"})
    until_seen(paybus, subscription, status="cancelled", cancel_at_period_end=False)
    over = call(paybus, "POST", f"{path}/resume")
    assert (over.status_code, "start a checkout" in over.text) == (409, True)
    told = "SELECT count(*) FROM billing_commands WHERE subject = %s AND status = 'open'"
    name = done(paybus, "GET", path)["provider_subscription_id"]
    assert paybus.sql("subscription", told, name) == [(0,)], "a refused one is not kept"
    # A customer who pays again has withdrawn the cancellation.
    settle(paybus, start(paybus, wanted))
    ask_now(paybus)
    until_seen(paybus, subscription, status="active", cancel_at_period_end=False)
    end = done(paybus, "GET", path)["current_period_end"]
    done(paybus, "POST", f"{path}/cancel", json={})
    assert done(paybus, "GET", path)["current_period_end"] == end, "what was given up stays so"


def test_a_payment_that_meets_a_cancellation_is_to_go_back(paybus: Paybus) -> None:
    wanted = order("fapshi")
    first = start(paybus, wanted)
    settle(paybus, first)
    ask_now(paybus)
    subscription = until_subscription(paybus, first, "active")["id"]
    second = start(paybus, wanted)
    paybus.system.processes["subscription-worker"].stop()
    settle(paybus, second)
    ask_now(paybus)
    until(lambda: paybus.depths()["subscription.billing"], what="its report waits")
    done(paybus, "POST", f"subscriptions/{subscription}/cancel", json={"when": "now"})
    paybus.start("subscription-worker")
    until(
        lambda: "refund it" in (done(paybus, "GET", f"checkouts/{second['id']}")["error"] or ""),
        what="somebody is told to give it back",
    )
    assert done(paybus, "GET", f"subscriptions/{subscription}")["status"] == "cancelled"


def test_each_verb_needs_its_role_and_its_tenant(paybus: Paybus) -> None:
    _, customer, subscription = a_customer(paybus)
    for path, body in (
        (f"subscriptions/{subscription}/cancel", {}),
        (f"customers/{customer}/setup-intents", {}),
        (f"customers/{customer}/portal-sessions", {"return_url": "https://x.example.com/"}),
    ):
        assert call(paybus, "POST", path, json=body, role="viewer").status_code == 403
        assert call(paybus, "POST", path, json=body, tenant="other").status_code == 404


def gold(paybus: Paybus, theirs: str) -> list[str]:
    """Return the ids of the customer's subscriptions to `gold`, at Stripe."""
    listed = stripe(paybus, "GET", f"subscriptions?customer={theirs}&status=all")["data"]
    return [each["id"] for each in listed if price(each) == "gold"]


def the_job_looks(paybus: Paybus, *keys: str) -> None:
    """Make the commands an hour old, and wait until the job has processed them."""
    old = (
        "UPDATE billing_commands SET updated_at = now() - interval '1 hour' "
        "WHERE idempotency_key = %s"
    )
    for key in keys:
        paybus.sql("subscription", old, key)
    ran = "SELECT last_run_at FROM schedules WHERE name = 'open-commands'"
    before = paybus.sql("subscription", ran)
    until(lambda: paybus.sql("subscription", ran) != before, what="the job has run")
    until(lambda: not paybus.depths()["subscription.commands"], what="what it ordered is taken")


def status_of(paybus: Paybus, key: str) -> str:
    query = "SELECT status FROM billing_commands WHERE idempotency_key = %s"
    return str(paybus.sql("subscription", query, key)[0][0])


@pytest.mark.parametrize(
    ("mode", "answered", "made"),
    [
        ("fail", 503, 0),  # Stripe was called, and has not executed it
        ("too_often", 503, 0),
        ("fail_after", 201, 1),  # Stripe was called, and has executed it
        ("hang", 202, 0),
        ("hang_after", 202, 1),
    ],
)
def test_a_command_whose_answer_was_lost_is_done_once(
    paybus: Paybus, mode: str, answered: int, made: int
) -> None:
    theirs, customer, _ = a_customer(paybus)
    path = f"customers/{customer}/subscriptions"
    key = f"lost-{mode}"
    behave(paybus, mode)
    try:
        lost = call(paybus, "POST", path, json={"plan_id": "gold"}, key=key)
    finally:
        behave(paybus, "well")
    assert lost.status_code == answered, lost.text
    assert len(gold(paybus, theirs)) == made
    if answered == 503:
        assert "nothing was done, and nothing will be" in lost.json()["detail"]
        assert int(lost.headers["Retry-After"]) > 0
    command = done(paybus, "POST", path, json={"plan_id": "gold"}, key=key)
    until_confirmed(paybus, command)
    assert len(gold(paybus, theirs)) == 1


@pytest.mark.parametrize("mode", ["fail", "too_often"])
def test_a_command_that_was_partly_done_is_done_later(paybus: Paybus, mode: str) -> None:
    """The planned change is abandoned, and Stripe does not make the change that replaces it."""
    theirs, _, subscription = a_customer(paybus)
    path, key = f"subscriptions/{subscription}/plan", f"partly-{mode}"
    offer_plan(paybus, f"platinum-{mode}", 3000)
    later = {"plan_id": f"platinum-{mode}", "when": "period_end"}
    schedule = done(paybus, "POST", path, json=later)["result"]["schedule"]
    behave(paybus, mode, under="/v1/subscriptions/")
    try:
        answer = call(paybus, "POST", path, json={"plan_id": "gold"}, key=key)
    finally:
        behave(paybus, "well")
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    found = stripe(paybus, "GET", f"subscription_schedules/{schedule}")
    assert (found["status"], gold(paybus, theirs)) == ("released", [])
    the_job_looks(paybus, key)
    until(lambda: status_of(paybus, key) == "done", what="the job has done it")
    assert len(gold(paybus, theirs)) == 1


def test_an_end_that_was_set_for_later_is_not_the_one_that_is_asked_for(paybus: Paybus) -> None:
    _, _, subscription = a_customer(paybus)
    name = done(paybus, "GET", f"subscriptions/{subscription}")["provider_subscription_id"]
    much_later = int(time.time()) + 400 * 86_400
    move(paybus, name, cancel_at=much_later)
    behave(paybus, "fail")
    try:
        answer = call(paybus, "POST", f"subscriptions/{subscription}/cancel", json={})
    finally:
        behave(paybus, "well")
    assert answer.status_code == 503, "Stripe was asked, and has not done it"
    assert "nothing was done, and nothing will be" in answer.json()["detail"]


@pytest.mark.parametrize("mode", ["fail", "too_often"])
def test_what_was_answered_503_is_never_done_by_itself(paybus: Paybus, mode: str) -> None:
    """The customer clicks again, with another key."""
    theirs, customer, _ = a_customer(paybus)
    path = f"customers/{customer}/subscriptions"
    keys = [f"{mode}-click-{number}" for number in range(3)]
    behave(paybus, mode)
    try:
        for key in keys[:2]:
            answer = call(paybus, "POST", path, json={"plan_id": "gold"}, key=key)
            assert answer.status_code == 503
    finally:
        behave(paybus, "well")
    done(paybus, "POST", path, json={"plan_id": "gold"}, key=keys[2])
    the_job_looks(paybus, *keys)
    assert len(gold(paybus, theirs)) == 1
    assert [status_of(paybus, key) for key in keys] == ["withdrawn", "withdrawn", "done"]


def test_while_the_circuit_is_open_nothing_is_done_and_nothing_will_be(paybus: Paybus) -> None:
    theirs, customer, _ = a_customer(paybus)
    path = f"customers/{customer}/subscriptions"
    keys = [f"open-{number}" for number in range(30)]
    behave(paybus, "hang")
    last = ""
    try:
        for key in keys:  # ten in a row without a response open it
            answer = call(paybus, "POST", path, json={"plan_id": "gold"}, key=key)
            last = answer.json().get("detail") or ""
            if answer.status_code == 503:
                break
            assert answer.status_code == 202
            assert (
                call(paybus, "GET", f"commands/{answer.json()['id']}").json()["status"]
                == "accepted"
            )
            paybus.sql(
                "subscription", "DELETE FROM billing_commands WHERE idempotency_key = %s", key
            )
    finally:
        behave(paybus, "well")
    assert "nothing was done, and nothing will be" in last
    the_job_looks(paybus, *keys)
    assert gold(paybus, theirs) == []

    def again() -> bool:
        return call(paybus, "POST", path, json={"plan_id": "gold"}, key="closed").is_success

    until(again, what="the circuit closes", pause=1)
    assert len(gold(paybus, theirs)) == 1


@pytest.mark.parametrize("mode", ["hang", "hang_after"])
def test_what_was_accepted_is_done_once_by_the_job(paybus: Paybus, mode: str) -> None:
    theirs, customer, subscription = a_customer(paybus)
    keys = (f"accepted-{mode}", f"ended-{mode}")
    behave(paybus, mode)
    try:
        path = f"customers/{customer}/subscriptions"
        made = call(paybus, "POST", path, json={"plan_id": "gold"}, key=keys[0])
        path = f"subscriptions/{subscription}/cancel"
        ended = call(paybus, "POST", path, json={"when": "now"}, key=keys[1])
        assert (made.status_code, ended.status_code) == (202, 202)
    finally:
        behave(paybus, "well")

    def done_by_the_job() -> bool:
        the_job_looks(paybus, *keys)  # again, if Stripe was slow
        return poll(lambda: {status_of(paybus, key) for key in keys} == {"done"}, seconds=5)

    until(done_by_the_job, what="both are done")
    until_seen(paybus, subscription, status="cancelled")
    the_job_looks(paybus, *keys)
    assert len(gold(paybus, theirs)) == 1


def test_a_command_whose_process_died_before_it_was_sent_is_withdrawn(paybus: Paybus) -> None:
    """The caller received no response, so the command must not be executed later."""
    theirs, customer, _ = a_customer(paybus)
    behave(paybus, "fail")
    try:
        path = f"customers/{customer}/subscriptions"
        call(paybus, "POST", path, json={"plan_id": "gold"}, key="died")
    finally:
        behave(paybus, "well")
    for begun in (0, 1):
        paybus.sql(
            "subscription",
            "UPDATE billing_commands SET status = 'open', begun = %s, ended = 0 "
            "WHERE idempotency_key = 'died'",
            begun,
        )
        the_job_looks(paybus, "died")
        until(lambda: status_of(paybus, "died") == "withdrawn", what="it is given up")
    assert gold(paybus, theirs) == []


def test_what_was_accepted_and_can_t_be_done_for_a_day_is_given_up(paybus: Paybus) -> None:
    theirs, customer, _ = a_customer(paybus)
    behave(paybus, "hang")
    try:
        path = f"customers/{customer}/subscriptions"
        answer = call(paybus, "POST", path, json={"plan_id": "gold"}, key="for-a-day")
        assert answer.status_code == 202
    finally:
        behave(paybus, "well")
    paybus.sql(
        "subscription",
        "UPDATE billing_commands SET accepted_at = now() - interval '25 hours' "
        "WHERE idempotency_key = 'for-a-day'",
    )
    the_job_looks(paybus, "for-a-day")
    until(lambda: status_of(paybus, "for-a-day") == "withdrawn", what="it is given up")
    assert gold(paybus, theirs) == []


def test_an_end_that_the_portal_has_set_is_taken_back(paybus: Paybus) -> None:
    """In flexible billing, the portal sets `cancel_at` and not `cancel_at_period_end`."""
    theirs, _, subscription = a_customer(paybus)
    name = done(paybus, "GET", f"subscriptions/{subscription}")["provider_subscription_id"]
    (item,) = stripe(paybus, "GET", f"subscriptions/{name}")["items"]["data"]
    ends = item["current_period_end"]
    move(paybus, name, cancel_at=ends)

    def entitlement() -> dict[str, Any]:
        (plan,) = done(paybus, "GET", f"entitlements/{theirs}")["plans"]
        found: dict[str, Any] = plan
        return found

    until(lambda: entitlement()["ends"], what="it is known to end")
    assert datetime.fromisoformat(entitlement()["until"]).timestamp() == ends
    command = done(paybus, "POST", f"subscriptions/{subscription}/resume")
    until_confirmed(paybus, command)
    assert stripe(paybus, "GET", f"subscriptions/{name}")["cancel_at"] is None
    until(lambda: not entitlement()["ends"], what="it goes on")


def a_bundle(paybus: Paybus) -> tuple[str, str, str, str]:
    """Create a subscription to silver plus three of a support plan. Returns Stripe's ids of the
    customer, the subscription and the second item, and our id of the subscription."""
    theirs, _, subscription = a_customer(paybus)
    name = done(paybus, "GET", f"subscriptions/{subscription}")["provider_subscription_id"]
    item = stripe(
        paybus, "POST", "subscription_items", subscription=name, price="platinum", quantity=3
    )
    until(lambda: len(entitled_to(paybus, theirs)) == 2, what="both entitle")
    return theirs, name, item["id"], subscription


def entitled_to(paybus: Paybus, customer: str) -> dict[str, int | None]:
    plans = done(paybus, "GET", f"entitlements/{customer}")["plans"]
    return {each["plan"]: each["quantity"] for each in plans}


def test_each_item_of_a_subscription_entitles_to_its_plan(paybus: Paybus) -> None:
    theirs, _, item, subscription = a_bundle(paybus)
    assert entitled_to(paybus, theirs) == {"silver": 1, "platinum": 3}
    before = done(paybus, "GET", f"subscriptions/{subscription}")["version"]
    stripe(paybus, "DELETE", f"subscription_items/{item}")
    until(lambda: entitled_to(paybus, theirs) == {"silver": 1}, what="one is left")
    shown = done(paybus, "GET", f"subscriptions/{subscription}")
    assert shown["version"] == before + 1, "plan_changed"
    assert [each["quantity"] for each in shown["items"]] == [1]


def test_what_is_done_to_a_subscription_of_several_plans_is_not_told_as_refused(
    paybus: Paybus,
) -> None:
    _, name, _, subscription = a_bundle(paybus)
    path = f"subscriptions/{subscription}"
    refused = call(paybus, "POST", f"{path}/plan", json={"plan_id": "gold"})
    assert refused.status_code == 422
    assert "several prices" in refused.text
    for verb, wanted in (("cancel", {"when": "period_end"}), ("resume", None)):
        command = done(paybus, "POST", f"{path}/{verb}", json=wanted)
        until_confirmed(paybus, command)
        ends = stripe(paybus, "GET", f"subscriptions/{name}")["cancel_at_period_end"]
        assert ends is (verb == "cancel")
    until_confirmed(paybus, done(paybus, "POST", f"{path}/cancel", json={"when": "now"}))
    assert stripe(paybus, "GET", f"subscriptions/{name}")["status"] == "canceled"


def test_a_change_now_holds_against_the_release_of_what_was_planned(paybus: Paybus) -> None:
    """Release and change are two events of one second: their `previous_attributes` order them."""
    for _ in range(2):
        theirs, _, subscription = a_customer(paybus)
        path = f"subscriptions/{subscription}/plan"
        done(paybus, "POST", path, json={"plan_id": "gold", "when": "period_end"})
        until_confirmed(paybus, done(paybus, "POST", path, json={"plan_id": "platinum"}))

        def holds(theirs: str = theirs) -> bool:
            return [*entitled_to(paybus, theirs)] == ["platinum"]

        until(lambda: not paybus.depths()["subscription.billing"], what="all are heard")
        until(holds, what="the change holds", seconds=5)

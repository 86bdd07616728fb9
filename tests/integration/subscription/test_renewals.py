"""Subscriptions with our own clock: reminded, past due, expired, and reactivated by a payment.

Tests advance time by moving the payments into the past.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from conftest import MakePaybus
from support.checkouts import (
    PROCESSES,
    order,
    read,
    settle,
    start,
    until_status,
    until_subscription,
    until_told,
)
from support.mobile_money import deliver
from support.paybus import Paybus

WEEK = {"plan_id": "week", "interval": "week", "grace_days": 2, "reminder_days": 1}


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(PROCESSES, RENEWALS_INTERVAL_SECONDS="1") as paybus:
        deliver(paybus)
        paybus.tap("subscriptions", "subscription.*")
        yield paybus


@pytest.fixture
def paid(paybus: Paybus) -> dict[str, Any]:
    """Return a checkout for a week that was paid just now."""
    checkout = start(paybus, order("fapshi", plan=WEEK))
    settle(paybus, checkout)
    until_subscription(paybus, checkout, "active")
    return checkout


def pass_days(paybus: Paybus, checkout: dict[str, Any], days: float) -> None:
    paybus.sql(
        "subscription",
        "UPDATE checkouts SET paid_at = paid_at - make_interval(secs => %s)"
        " WHERE subscription_id = %s",
        days * 86400,
        checkout["subscription_id"],
    )
    paybus.sql(
        "subscription",
        "UPDATE subscriptions SET due_at = now() WHERE id = %s AND due_at IS NOT NULL",
        checkout["subscription_id"],
    )


def renew(paybus: Paybus, checkout: dict[str, Any], provider: str) -> dict[str, Any]:
    customer = order(provider)["customer"] | {"reference": _customer(paybus, checkout)}
    again = start(paybus, order(provider, plan=WEEK, customer=customer))
    assert again["subscription_id"] == checkout["subscription_id"]
    settle(paybus, again)
    until_status(paybus, again, "paid")
    return again


def _customer(paybus: Paybus, checkout: dict[str, Any]) -> str:
    query = "SELECT provider_customer_id FROM customers WHERE id = %s"
    ((reference,),) = paybus.sql("subscription", query, checkout["customer_id"])
    return str(reference)


def test_an_expiring_subscription_is_reminded_once_then_past_due_then_expired(
    paybus: Paybus, paid: dict[str, Any]
) -> None:
    pass_days(paybus, paid, 6.5)
    until_told(paybus, paid, "activated", "expiring")
    pass_days(paybus, paid, 0.1)  # still the same period
    pass_days(paybus, paid, 0.6)
    until_told(paybus, paid, "activated", "expiring", "past_due")
    assert read(paybus, "subscriptions", paid["subscription_id"])["status"] == "past_due"
    pass_days(paybus, paid, 2)
    until_told(paybus, paid, "activated", "expiring", "past_due", "expired", "cancelled")
    assert read(paybus, "subscriptions", paid["subscription_id"])["status"] == "expired"
    query = "SELECT due_at FROM subscriptions WHERE id = %s"
    assert paybus.sql("subscription", query, paid["subscription_id"]) == [(None,)]


def test_a_renewal_ahead_of_time_prolongs_it_whoever_the_money_comes_by(
    paybus: Paybus, paid: dict[str, Any]
) -> None:
    before = read(paybus, "subscriptions", paid["subscription_id"])["current_period_end"]
    renew(paybus, paid, "mtn-momo")
    until_told(paybus, paid, "activated", "renewed")
    after = read(paybus, "subscriptions", paid["subscription_id"])["current_period_end"]
    assert after > before


def test_a_renewal_in_the_grace_period_makes_it_active_again(
    paybus: Paybus, paid: dict[str, Any]
) -> None:
    pass_days(paybus, paid, 8)
    until_subscription(paybus, paid, "past_due")
    renew(paybus, paid, "orange-money")
    until_told(paybus, paid, "activated", "past_due", "activated", "renewed")


def test_a_payment_after_it_expired_begins_anew(paybus: Paybus, paid: dict[str, Any]) -> None:
    pass_days(paybus, paid, 30)
    until_subscription(paybus, paid, "expired")
    renew(paybus, paid, "flutterwave")
    until_subscription(paybus, paid, "active")
    until_told(paybus, paid, "activated", "expired", "cancelled", "activated")


def test_one_that_can_not_be_read_holds_up_nobody(paybus: Paybus, paid: dict[str, Any]) -> None:
    broken = start(paybus, order("fapshi", plan=WEEK))
    settle(paybus, broken)
    until_subscription(paybus, broken, "active")
    paybus.sql("subscription", "UPDATE checkouts SET terms = '{}' WHERE id = %s", broken["id"])
    pass_days(paybus, broken, 30)
    pass_days(paybus, paid, 30)
    until_subscription(paybus, paid, "expired")
    assert "subscription_renewal_deferred" in paybus.log("subscription-worker")


def test_schedules_are_for_the_tenant_that_runs_them(paybus: Paybus) -> None:
    for method, path in (("GET", ""), ("POST", "/renewals/pause"), ("POST", "/renewals/run")):
        answer = paybus.api(method, "subscription", f"/v1/schedules{path}", tenant="other")
        assert (answer.status_code, "OPERATOR_TENANT" in answer.text) == (403, True)


def test_the_job_can_be_seen_and_run_by_hand(paybus: Paybus) -> None:
    listed = paybus.api("GET", "subscription", "/v1/schedules").json()
    assert [each["name"] for each in listed] == ["open-commands", "renewals"]
    answer = paybus.api("POST", "subscription", "/v1/schedules/renewals/run")
    assert answer.status_code == 202

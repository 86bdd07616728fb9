"""docs/runbooks/restore.md: every service's database is restored from a backup, and later events
are replayed before any deadline is applied."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from conftest import MakePaybus
from devstack.processes.system import introduce
from support.billing import a_customer, done, offer, stripe
from support.orders import (
    PROCESSES,
    a_seller,
    an_order,
    line,
    pay,
    place,
    refunds_at_stripe,
    set_terms,
    start_payment,
    until_refunds,
    until_state,
)
from support.orders import done as done_at_orders
from support.orders import see as see_order
from support.paybus import Paybus
from support.runbook import Walk, copy_database
from support.waiting import until

# The payouts database is restored in test_payouts_restore.py.
_SERVICES = ("subscription", "webhook-gateway", "orders", "provisioning")
_APIS = ("subscription-api", "orders-api", "provisioning-api")
_WORKERS = (
    "webhook-gateway-worker",
    "subscription-worker",
    "orders-worker",
    "provisioning-worker",
)


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    more = ["provisioning-api", "provisioning-worker", "sandbox-backend"]
    names = [*PROCESSES, *more, "operations-api", "operations-worker"]
    quick = {"ORDERS_INTERVAL_SECONDS": "1", "RENEWALS_INTERVAL_SECONDS": "1"}
    with make_paybus(names, BACKEND_LOOK_FIRST="true", **quick) as paybus:
        introduce(paybus.layout)
        offer(paybus)
        set_terms(paybus)
        yield paybus


def _stop(paybus: Paybus) -> None:
    for name in (*_APIS, *_WORKERS):
        paybus.system.processes.pop(name).stop()


def _back_up(paybus: Paybus) -> datetime:
    _stop(paybus)
    at = datetime.now(UTC)
    for service in _SERVICES:
        copy_database(paybus, service, to=f"kept_{service}")
    paybus.start(*_APIS, *_WORKERS)
    return at


def _entitled(paybus: Paybus, customer: str) -> bool | None:
    answer = paybus.api("GET", "subscription", f"/v1/entitlements/{customer}")
    return bool(answer.json()["entitled"]) if answer.is_success else None


def _ends(paybus: Paybus, order: dict[str, Any], ago: str) -> None:
    """Set the end of the order's payment period; the job has not seen it yet."""
    change = "UPDATE orders SET pay_by = now() - cast(%s AS interval), due_at = now() WHERE id = %s"
    paybus.sql("orders", change, ago, order["id"])


def _ask(paybus: Paybus, path: str, key: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Send a caller's request; a repeated one is identical."""
    return done_at_orders(paybus, "POST", path, json=wanted, key=key)


def _one_euro_is(paybus: Paybus, dollars: str) -> None:
    change = """INSERT INTO exchange_rates (day, source, currency, rate)
        VALUES ((now() AT TIME ZONE 'UTC')::date, 'ecb', 'USD', cast(%s AS numeric))
        ON CONFLICT (day, source, currency) DO UPDATE SET rate = excluded.rate"""
    paybus.sql("orders", change, dollars)


def _organizations(paybus: Paybus) -> list[str]:
    return sorted(each["reference"] for each in paybus.books()["organizations"])


@pytest.mark.timeout(600)
def test_what_came_after_the_backup_is_heard_again_before_the_clock_judges(paybus: Paybus) -> None:
    leaves, _, subscription = a_customer(paybus)
    until(lambda: _entitled(paybus, leaves), what="who will leave is entitled")
    order = place(paybus, line(a_seller(paybus), 5000))
    payment = start_payment(paybus, order)
    late = place(paybus, line(a_seller(paybus), 7000))
    paid_late = start_payment(paybus, late)
    twice = place(paybus, line(a_seller(paybus), 9000))
    by_card = start_payment(paybus, twice)
    by_phone = start_payment(paybus, twice, "mtn-momo", phone="237670000000")
    backup = _back_up(paybus)

    theirs = done(paybus, "GET", f"subscriptions/{subscription}")["provider_subscription_id"]
    stripe(paybus, "DELETE", f"subscriptions/{theirs}")
    until(lambda: _entitled(paybus, leaves) is False, what="who left is not entitled")
    comes, _, _ = a_customer(paybus)
    until(lambda: _entitled(paybus, comes), what="who came is entitled")
    pay(paybus, payment)
    until_state(paybus, order, "paid")
    _ends(paybus, late, "10 minutes")
    until_state(paybus, late, "cancelled")
    pay(paybus, paid_late)
    until(lambda: refunds_at_stripe(paybus, paid_late) == [7000], what="what came late goes back")
    _one_euro_is(paybus, "1.25")
    converted = an_order(line(a_seller(paybus), 4000, currency="EUR"))
    placed = _ask(paybus, "orders", "begun", converted)
    assert placed["total"] == 5000
    how = {"provider": "stripe", "return_url": "https://shop.example.com/thanks"}
    begun = _ask(paybus, f"orders/{placed['id']}/payments", "paid", how)
    pay(paybus, begun)
    until_state(paybus, placed, "paid")
    lines = see_order(paybus, placed)["lines"]
    pay(paybus, by_card)
    until_state(paybus, twice, "paid")
    pay(paybus, by_phone)
    until_refunds(paybus, twice, "manual")
    given_up = an_order(line(a_seller(paybus), 3000))
    gone = _ask(paybus, "orders", "given-up", given_up)
    paid_gone = _ask(paybus, f"orders/{gone['id']}/payments", "too-late", how)
    _ends(paybus, gone, "10 minutes")
    until_state(paybus, gone, "cancelled")
    pay(paybus, paid_gone)
    until(lambda: refunds_at_stripe(paybus, paid_gone) == [3000], what="this one, too")
    until(lambda: len(_organizations(paybus)) == 2, what="each has an organization")
    created = paybus.books()["calls"]["POST organizations"]
    before = _organizations(paybus)

    _stop(paybus)
    for service in _SERVICES:
        copy_database(paybus, service, of=f"kept_{service}")
    # Hours pass.
    _ends(paybus, order, "0 minutes")
    _ends(paybus, late, "10 minutes")
    paybus.start(*_APIS)
    walk = Walk(paybus, backup)
    walk.line(3)
    _one_euro_is(paybus, "1.30")
    converted["lines"] = [
        {name: each[name] for name in ("seller", "description")}
        | {"quantity": 1, "unit_price": each["amount"]}
        for each in lines
    ]
    assert _ask(paybus, "orders", "begun", converted)["id"] == placed["id"]
    assert _ask(paybus, f"orders/{placed['id']}/payments", "paid", how)["url"] == begun["url"]
    assert _ask(paybus, "orders", "given-up", given_up)["id"] == gone["id"]
    assert _ask(paybus, f"orders/{gone['id']}/payments", "too-late", how)["url"] == paid_gone["url"]
    done_at_orders(paybus, "POST", f"orders/{gone['id']}/cancel", json={"reason": "the clock's"})
    asks, *others = _WORKERS
    paybus.start(*others)
    assert see_order(paybus, order)["state"] == "awaiting_payment"
    walk.line(7)
    until(lambda: _entitled(paybus, leaves) is False, what="who left is not entitled")
    until(lambda: _entitled(paybus, comes), what="who came is entitled")
    until_state(paybus, order, "paid")
    until_state(paybus, placed, "paid")
    until_refunds(paybus, twice, "manual")
    paybus.start(asks)
    walk.line(8)
    walk.line(9)
    ran = "SELECT last_run_at FROM schedules WHERE name = 'due-orders'"
    last = paybus.sql("orders", ran)
    until(lambda: paybus.sql("orders", ran) != last, what="the clock goes on")
    assert see_order(paybus, order)["state"] == "paid"
    for good in (payment, begun, by_card):
        assert refunds_at_stripe(paybus, good) == []
    until_refunds(paybus, gone, "succeeded")
    assert refunds_at_stripe(paybus, paid_gone) == [3000]
    assert see_order(paybus, gone)["state"] == "cancelled"
    # The refunded payment does not count towards the price.
    until_state(paybus, late, "cancelled")
    until_refunds(paybus, late, "succeeded")
    assert refunds_at_stripe(paybus, paid_late) == [7000]
    query = "SELECT count(*) FROM integrations WHERE organization_id IS NOT NULL"
    until(lambda: paybus.sql("provisioning", query) == [(2,)], what="both are known again")
    assert _organizations(paybus) == before
    assert paybus.books()["calls"]["POST organizations"] == created

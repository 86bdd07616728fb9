"""No endpoint displays another tenant's data, neither in a list nor by id.

The endpoints are taken from the services' OpenAPI documents; the data is created here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from conftest import MakePaybus
from devstack.processes.system import introduce
from security.test_tokens import SERVICES, described
from support import banks, checkouts, orders, payouts
from support.operations import until_open
from support.organizations import until_status
from support.paybus import Paybus

_PROCESSES = [
    *("sandbox-providers", "sandbox-stripe", "sandbox-backend"),
    *("webhook-gateway", "webhook-gateway-worker"),
    *(f"{service}-api" for service in SERVICES),
    *(f"{service}-worker" for service in SERVICES),
]
# The minimum that this test must have seen, by the last part of a list's path.
_SEEN = {
    *("customers", "subscriptions", "payments", "plans", "checkouts", "integrations"),
    *("recipients", "jobs", "orders", "dead-letters", "items"),
}
# Without these, some requests are refused before their tenant is checked.
_WANTED = {"plan_id": "gold"}


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    quick = {**orders.QUICK, **payouts.QUICK}
    # With own broker logins, to prove that each login's permissions are sufficient.
    with make_paybus(
        _PROCESSES, payout_options=payouts.OPTIONS, own_logins=True, **quick
    ) as paybus:
        introduce(paybus.layout)
        _fill(paybus)
        yield paybus


def _fill(paybus: Paybus) -> None:
    """Create an object of every kind, for the tenant `default`."""
    until_status(paybus, paybus.subscribe(), "provisioned")
    checkout = checkouts.start(paybus, checkouts.order("fapshi"))
    checkouts.settle(paybus, checkout)
    checkouts.until_status(paybus, checkout, "paid")
    payouts.until_state(paybus, payouts.order(paybus, payouts.add(paybus, "fapshi")), "paid")
    orders.set_terms(paybus)
    orders.start_payment(paybus, orders.place(paybus, orders.line("ama", 500)))
    banks.link(paybus)
    paybus.publish("subscription.billing", '{"type": "x.y", "tenant": "default", "data": {}}')
    until_open(paybus, 1)


def ids_in(answer: Any) -> set[str]:
    """Return the ids in a list response, with or without an envelope."""
    items = answer if isinstance(answer, list) else answer.get("items", [])
    return {str(each["id"]) for each in items if isinstance(each, dict) and "id" in each}


def test_no_endpoint_shows_what_is_another_tenant_s(paybus: Paybus) -> None:
    endpoints = [each for each in described(paybus) if each.method == "GET"]
    lists = [each for each in endpoints if "{" not in each.path]
    ours: dict[str, set[str]] = {}
    for each in lists:
        answer = paybus.api("GET", each.service, each.path, role="admin")
        if answer.is_success and "json" in answer.headers["content-type"]:
            ours[f"{each.service} {each.path}"] = ids_in(answer.json())
            theirs = paybus.api("GET", each.service, each.path, role="admin", tenant="other")
            shown = [id_ for id_ in ours[f"{each.service} {each.path}"] if id_ in theirs.text]
            assert shown == [], each
    seen = {path.rpartition("/")[2] for path, found in ours.items() if found}
    assert seen >= _SEEN
    asked = 0
    for each in endpoints:
        before, _, after = each.path.partition("/{")
        if not after or "{" in after:
            continue
        for id_ in sorted(ours.get(f"{each.service} {before}", ()))[:3]:
            path = f"{before}/{id_}{after.partition('}')[2]}"
            theirs = paybus.api(
                "GET", each.service, path, role="admin", tenant="other", params=_WANTED
            )
            assert theirs.status_code in {403, 404}, f"{each} {theirs.status_code}: {theirs.text}"
            asked += 1
    assert asked >= len(_SEEN)

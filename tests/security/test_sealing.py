"""After a rotation, encrypted data can be opened with the new key alone."""

from __future__ import annotations

import json
from uuid import uuid4

from conftest import MakePaybus
from devstack.endpoints import ENCRYPTION_KEY
from devstack.processes.system import introduce_providers
from support import banks, checkouts, orders
from support.keys import new_key, rotate
from support.operations import get, letters, replay, until_done, until_open
from support.paybus import Paybus
from support.waiting import until

_PROCESSES = [
    *("sandbox-providers", "webhook-gateway", "webhook-gateway-worker"),
    *("subscription-api", "subscription-worker"),
    *("bank-sync-api", "bank-sync-worker"),
    *("orders-api", "orders-worker"),
    *("operations-api", "operations-worker"),
]
_SEALS = ("subscription", "orders", "bank-sync", "operations")
_CLEAR = "what nobody but its reader may know"


def test_each_service_s_keys_are_rotated_and_nothing_lies_in_clear(make_paybus: MakePaybus) -> None:
    """The rotation for payouts, while it pays, is in
    tests/integration/payouts/test_payout_books.py."""
    with make_paybus(_PROCESSES) as paybus:
        introduce_providers(paybus.layout)
        key, wanted = uuid4().hex, checkouts.order("fapshi", description=_CLEAR)
        checkout = checkouts.start(paybus, wanted, key=key)
        shop = orders.an_order(orders.line("ama", 500))
        shop["buyer"]["name"] = _CLEAR
        order = orders.done(paybus, "POST", "orders", json=shop, key=key)
        item = banks.link(paybus)
        paybus.publish("subscription.billing", json.dumps({"type": "x.y", "data": _CLEAR}))
        until_open(paybus, 1)
        assert _clear_in(paybus) == []
        new = new_key("subscription")
        for service in _SEALS:
            assert rotate(paybus, service, f"{new},{ENCRYPTION_KEY}").returncode == 0
            again = rotate(paybus, service, f"{new},{ENCRYPTION_KEY}")
            assert (again.returncode, again.stdout) == (0, "0 encrypted with the first key\n")
            lost = rotate(paybus, service, ENCRYPTION_KEY)
            assert (lost.returncode, "no key in ENCRYPTION_KEYS decrypts" in lost.stderr) == (
                1,
                True,
            )
            for name in (f"{service}-api", f"{service}-worker"):
                paybus.system.processes.pop(name).stop()
                spec = paybus.layout.spec(name, ENCRYPTION_KEYS=new)
                paybus.system.start_one(spec).wait_ready()
        assert checkouts.start(paybus, wanted, key=key)["id"] == checkout["id"]
        assert orders.done(paybus, "POST", "orders", json=shop, key=key)["id"] == order["id"]
        checkouts.settle(paybus, checkout)
        customer = checkouts.until_subscription(paybus, checkout, "active")["customer_id"]
        assert checkouts.read(paybus, "customers", customer)["email"] == "ama@example.com"
        banks.happen(paybus, item, add=3)
        until(
            lambda: banks.at_paybus(paybus, item) == banks.at_the_bank(paybus, item),
            what="the bank is asked with the token",
        )
        (one,) = letters(paybus)
        assert get(paybus, f"dead-letters/{one['id']}")["payload"]["data"] == _CLEAR
        assert until_done(paybus, replay(paybus)) == {"failed_again": 1}


def _clear_in(paybus: Paybus) -> list[str]:
    sealed = {
        "subscription": ("checkouts", "terms, payer"),
        "orders": ("orders", "request, contact"),
        "operations": ("dead_letters", "sealed_body"),
    }
    kept = {service: paybus.sql(service, f"SELECT {columns} FROM {table}")  # noqa: S608
            for service, (table, columns) in sealed.items()}  # fmt: skip
    assert all(kept.values())
    return [service for service, rows in kept.items() for row in rows if _CLEAR in str(row)]

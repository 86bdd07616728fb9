"""What is sealed at rest is opened by the new key alone once it was rotated."""

from __future__ import annotations

import json
from uuid import uuid4

from pydantic import SecretStr

from common.security.encryption import SecretBox
from conftest import MakePaybus
from devstack.endpoints import ENCRYPTION_KEY
from devstack.processes.system import introduce_providers
from support import banks, checkouts, orders
from support.keys import migrate, new_key, rotate
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
    """Payouts' while it pays: tests/integration/test_payout_books.py."""
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
            assert (again.returncode, again.stdout) == (0, "0 sealed with the first key\n")
            lost = rotate(paybus, service, ENCRYPTION_KEY)
            assert (lost.returncode, "no key in ENCRYPTION_KEYS opens" in lost.stderr) == (1, True)
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


def test_what_lay_in_clear_is_sealed_by_the_migration(make_paybus: MakePaybus) -> None:
    """Rows as the version before kept them, in tables as it had them."""
    with make_paybus() as paybus:
        _as_before(paybus)
        for service in ("subscription", "orders", "operations"):
            refused = migrate(paybus, service)
            assert (refused.returncode, "ENCRYPTION_KEYS is not set" in refused.stderr) == (2, True)
            done = migrate(paybus, service, ENCRYPTION_KEYS=ENCRYPTION_KEY)
            assert done.returncode == 0, done.stderr
        ((terms, payer),) = paybus.sql("subscription", "SELECT terms, payer FROM checkouts")
        assert terms == {"provider": "fapshi", "customer": {"reference": "ama"}}
        vault = SecretBox([SecretStr(ENCRYPTION_KEY)])
        person = {"email": "ama@example.com", "name": "Ama", "phone": None}
        assert json.loads(vault.decrypt(payer)) == person | {"description": None, "return_url": "x"}
        ((wanted, contact),) = paybus.sql("orders", "SELECT wanted, contact FROM orders")
        assert wanted == {"reference": "o", "buyer": {"reference": "ama"}, "lines": []}
        assert json.loads(vault.decrypt(contact)) == person
        for table, kept in (("letters", [_CLEAR]), ("items", [None, _CLEAR])):
            query = f"SELECT sealed_body FROM {table} ORDER BY sealed_body NULLS FIRST"  # noqa: S608
            found = [sealed for (sealed,) in paybus.sql("operations", query)]
            opened = [sealed and vault.open_bytes(bytes(sealed)).decode() for sealed in found]
            assert opened == kept


def _as_before(paybus: Paybus) -> None:
    request = {
        "provider": "fapshi",
        "customer": {"reference": "ama", "email": "ama@example.com", "name": "Ama"},
        "return_url": "x",
    }
    paybus.sql("subscription", "ALTER TABLE checkouts DROP COLUMN payer")
    paybus.sql("subscription", "ALTER TABLE checkouts RENAME COLUMN terms TO request")
    paybus.sql(
        "subscription",
        """INSERT INTO checkouts (id, tenant, provider, account, idempotency_key, request, status)
           VALUES ('c', 'default', 'fapshi', 'default', 'k', %s, 'pending')""",
        json.dumps(request),
    )
    paybus.sql("subscription", "UPDATE alembic_version SET version_num = '0013'")
    paybus.sql("orders", "ALTER TABLE orders DROP COLUMN contact")
    paybus.sql("orders", "ALTER TABLE orders RENAME COLUMN wanted TO request")
    buyer = request["customer"]
    paybus.sql(
        "orders",
        """INSERT INTO orders (id, tenant, reference, idempotency_key, request, buyer, state,
                               currency, total, terms, pay_by)
           VALUES ('o', 'default', 'o', 'k', %s, 'ama', 'placed', 'USD', 1, '{}', now())""",
        json.dumps({"reference": "o", "buyer": buyer, "lines": []}),
    )
    paybus.sql("orders", "UPDATE alembic_version SET version_num = '0004'")
    for table in ("letters", "items"):
        paybus.sql("operations", f"ALTER TABLE {table} RENAME COLUMN sealed_body TO body")
    paybus.sql(
        "operations",
        """INSERT INTO letters (id, queue, state, group_id, type, body, headers, text, reason,
                                error, stack, attempts, history, died_at)
           VALUES ('l', 'q', 'open', 'g', 't', %s, '{}', '', '', '', '', 1, '[]', now())""",
        _CLEAR.encode(),
    )
    for id_, body in (("1", _CLEAR.encode()), ("2", None)):
        paybus.sql(
            "operations",
            """INSERT INTO items (id, replay_id, position, queue, state, body)
               VALUES (%s, 'r', 1, 'q', 'waiting', %s)""",
            id_,
            body,
        )
    paybus.sql("operations", "UPDATE alembic_version SET version_num = '0003'")


def _clear_in(paybus: Paybus) -> list[str]:
    sealed = {
        "subscription": ("checkouts", "terms, payer"),
        "orders": ("orders", "wanted, contact"),
        "operations": ("letters", "sealed_body"),
    }
    kept = {service: paybus.sql(service, f"SELECT {columns} FROM {table}")  # noqa: S608
            for service, (table, columns) in sealed.items()}  # fmt: skip
    assert all(kept.values())
    return [service for service, rows in kept.items() for row in rows if _CLEAR in str(row)]

"""Secrets and personal data enter through every input, and appear in no output."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from common.contracts.payments import PaymentOutcome
from common.messaging.events import new_event
from conftest import MakePaybus
from devstack import warm
from security.canaries import CANARIES, SECRET_PART
from support import checkouts
from support.collector import Collected, collector
from support.console import Browser
from support.operations import get, letters, until_open
from support.organizations import until_status
from support.paybus import Paybus
from support.waiting import until

_PROCESSES = [
    *("sandbox-providers", "sandbox-backend", "webhook-gateway"),
    *("subscription-api", "subscription-worker"),
    *("provisioning-api", "provisioning-worker"),
    *("operations-api", "operations-worker"),
    *("payouts-api", "bank-sync-api", "orders-api"),
]
_APIS = [name.removesuffix("-api") for name in _PROCESSES if name.endswith("-api")]
_PATHS = {
    "subscription": ("/v1/customers", "/v1/checkouts"),
    "provisioning": ("/v1/integrations", "/v1/integrations/retry"),
    "operations": ("/v1/dead-letters", "/v1/replays", "/console/login"),
    "payouts": ("/v1/recipients", "/v1/payouts"),
    "bank-sync": ("/v1/items", "/v1/link-tokens"),
    "orders": ("/v1/orders", "/v1/terms"),
}
_OURS = [name for name in _PROCESSES if not name.startswith("sandbox")]
_SECRET = {kind: SECRET_PART.get(kind, canary) for kind, canary in CANARIES.items()}
_ALL = "; ".join(CANARIES.values())
_EMAIL, _PHONE = "canary.payer@example.com", "237677999999"
_COLUMN = SQL("SELECT {} FROM {}")


@pytest.fixture(scope="module")
def collected() -> Iterator[tuple[str, Collected]]:
    with collector() as found:
        yield found


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus, collected: tuple[str, Collected]) -> Iterator[Paybus]:
    tracing = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collected[0],
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with make_paybus(_PROCESSES, **tracing) as paybus:
        _hear_them_as_data(paybus)
        _hear_them_as_ids(paybus)
        _hear_them_from_a_back_end(paybus)
        _hear_them_from_a_payer(paybus)
        _hear_them_from_callers(paybus)
        until_open(paybus, len(CANARIES) + 4)
        yield paybus


def _event(**changes: str) -> dict[str, Any]:
    report = PaymentOutcome(
        provider="stripe", payment_id="pi_1", customer_id="cus_1", amount=1, currency="USD"
    )
    event: dict[str, Any] = json.loads(
        new_event(
            id=uuid4().hex,
            type="payment.failed",
            source="/webhooks/stripe/default",
            subject="pi_1",
            tenant="default",
            data=report,
        ).encode()
    )
    return event | changes


def _hear_them_as_data(paybus: Paybus) -> None:
    event = _event()
    event["data"] |= {"currency": _ALL, "note": _ALL, "all": list(CANARIES.values())}
    event["data"] |= {"by": {canary: {"x": 1} for canary in CANARIES.values()}}
    event["data"] |= {"number": 4242424242424242}
    paybus.publish_to("payments", "payment.failed", json.dumps(event))
    event["id"], event["type"] = uuid4().hex, f"payment.{CANARIES['e-mail address']}"
    paybus.publish("subscription.billing", json.dumps(event))
    paybus.publish("subscription.billing", f"no JSON: {_ALL}")


def _hear_them_as_ids(paybus: Paybus) -> None:
    """Send events that are processed, and events that no consumer can process."""
    for canary in CANARIES.values():
        event = _event(id=canary, subject=canary, correlationid=canary)
        paybus.publish_to("payments", "payment.failed", json.dumps(event))
        event["id"], event["data"]["currency"] = f"{canary} ", "none at all"
        paybus.publish_to("payments", "payment.failed", json.dumps(event))


def _hear_them_from_a_back_end(paybus: Paybus) -> None:
    paybus.backend(mode="refuse", says=_ALL)
    until_status(paybus, paybus.subscribe(), "failed")


def _hear_them_from_a_payer(paybus: Paybus) -> None:
    customer = {"reference": "canary", "email": _EMAIL, "name": "Ama", "phone": _PHONE}
    # The sandbox refuses this number's payments, and its message contains the number.
    wanted = checkouts.order(
        "mtn-momo",
        customer=customer,
        description=_ALL[:150],
        return_url="https://shop.example.com/thanks?password=canary-password",
    )
    checkouts.start(paybus, wanted)


def _hear_them_from_callers(paybus: Paybus) -> None:
    for canary in CANARIES.values():
        value = canary if canary.isascii() else quote(canary)  # a header is ASCII
        headers = {"X-Canary": value, "Idempotency-Key": value}
        for service in _APIS:
            for path in _PATHS[service]:
                paybus.api("GET", service, path, params={"cursor": canary, "x": canary})
                paybus.api("POST", service, path, json={"x": canary}, extra_headers=headers)
        paybus.call("stripe", canary.encode(), {"Stripe-Signature": value})


def _leaks(text: str) -> list[str]:
    """Return the secrets found in a text, plain or escaped as in JSON."""
    forms = (text, text.replace("\\", ""))
    known = {**_SECRET, "payer's address": _EMAIL, "payer's phone": _PHONE}
    return [kind for kind, secret in known.items() if any(secret in form for form in forms)]


@pytest.mark.parametrize("process", _OURS)
def test_none_is_in_a_log(paybus: Paybus, process: str) -> None:
    assert _leaks(paybus.log(process)) == []


@pytest.mark.parametrize("process", _OURS)
def test_none_is_in_a_metric(paybus: Paybus, process: str) -> None:
    assert _leaks(paybus.http.get(f"{paybus.layout.url(process)}/metrics").text) == []


def test_none_is_in_what_operators_ask_the_api(paybus: Paybus) -> None:
    seen = [get(paybus, path) for path in ("dead-letters/groups", "journal?limit=200", "actions")]
    found = letters(paybus)
    seen += [get(paybus, f"dead-letters/{each['id']}") for each in found]
    assert len(found) >= len(CANARIES)
    assert _leaks(json.dumps([found, seen], ensure_ascii=False)) == []


def test_none_can_be_found_out_by_looking_for_it(paybus: Paybus) -> None:
    secret = CANARIES["e-mail address"]
    for filter_ in ({"subject": secret}, {"correlation_id": secret}, {"type": f"payment.{secret}"}):
        answer = paybus.api("GET", "operations", "/v1/dead-letters", params=filter_, role="viewer")
        assert (answer.status_code, "can't be searched" in answer.text) == (422, True)
    for filter_ in ({"subject": secret}, {"correlation_id": secret}, {"type": f"payment.{secret}"}):
        answer = paybus.api("GET", "operations", "/v1/journal", params=filter_, role="viewer")
        assert (answer.status_code, "can't be searched" in answer.text) == (400, True)
    assert paybus.api("GET", "operations", f"/v1/journal/trace/{secret}").status_code == 404
    for text in (secret, "4242424242424242"):
        assert letters(paybus, text=text) == []


def test_none_is_in_what_other_apis_say_of_failures(paybus: Paybus) -> None:
    failed = paybus.api("GET", "provisioning", "/v1/integrations?status=failed")
    assert "422" in failed.text
    assert _leaks(failed.text) == []
    assert _leaks(paybus.api("GET", "subscription", "/v1/checkouts").text) == []


def test_none_is_on_the_console(paybus: Paybus) -> None:
    browser = Browser(paybus, role="admin")
    pages = ["", "/groups", "/dead-letters", "/journal", "/replays"]
    pages += [f"/dead-letters/{each['id']}" for each in letters(paybus)]
    for page in pages:
        assert _leaks(browser.see(page)) == [], page


def test_none_is_on_the_command_line(paybus: Paybus) -> None:
    (one, *_) = [each for each in letters(paybus) if each["type"] == "undecodable"]
    for arguments in (("list",), ("groups",), ("show", one["id"])):
        env = {
            **os.environ,
            "PAYBUS_URL": paybus.layout.url("operations-api"),
            "PAYBUS_TOKEN": paybus.token("admin"),
        }
        done = warm.run("operations.cli", ("dead-letters", *arguments), env)
        assert (done.returncode, _leaks(done.stdout + done.stderr)) == (0, []), arguments


def test_none_is_in_a_trace(paybus: Paybus, collected: tuple[str, Collected]) -> None:
    assert paybus
    failed = "provisioning.organizations organization.reconcile"
    until(lambda: collected[1].named(failed), what="the span of what failed came")
    assert _leaks("\n".join(str(span) for _, span in collected[1].spans)) == []


@pytest.mark.parametrize("service", _APIS)
def test_none_lies_in_clear_in_a_database(paybus: Paybus, service: str) -> None:
    url = paybus.layout.databases[service].replace("+psycopg", "")
    columns = """
        SELECT table_name, column_name FROM information_schema.columns
        WHERE table_schema = 'public' AND data_type IN ('text', 'jsonb', 'bytea', 'ARRAY')
    """
    leaks = {}
    with psycopg.connect(url) as connection:
        for table, column in connection.execute(columns).fetchall():
            if column in _KNOWN or column.endswith("_id"):
                continue
            kept = connection.execute(_COLUMN.format(*map(Identifier, (column, table))))
            texts = (bytes(v).decode() if isinstance(v, bytes) else str(v) for (v,) in kept)
            if found := _leaks("\n".join(texts)):
                leaks[f"{table}.{column}"] = found
    assert leaks == {}


# Search keys, which are masked in output, and contact data, which two services need.
_KNOWN = frozenset({"id", "source", "type", "subject", "email", "name"})

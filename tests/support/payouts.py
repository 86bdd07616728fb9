"""A platform that pays its sellers, compared with the stand-ins' books."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from datetime import date
from typing import Any
from uuid import uuid4

import httpx

from common.contracts.event import Event
from common.contracts.payouts import EarningsAdjustment
from common.messaging.events import new_event
from devstack import warm
from devstack.processes.system import CALLED
from support.paybus import Paybus
from support.waiting import until

PROCESSES = ["sandbox-providers", "webhook-gateway", "payouts-api", "payouts-worker"]
PROVIDERS = ("stripe", "dwolla", "fapshi")

# As in production, but with short intervals.
QUICK = {
    "PAYOUTS_INTERVAL_SECONDS": "0.5",
    "PAYOUT_STATUS_CHECK_DELAY_SECONDS": "0.3",
    "PAYOUT_STATUS_POLL_DELAY_SECONDS": "300",
    "PROVIDER_TIMEOUT_SECONDS": "1",
}
OPTIONS = {"not_found_grace_seconds": 0.2, "circuit_reset_seconds": 3}


def details(provider: str, **changes: Any) -> dict[str, Any]:
    """Return the details of a new recipient."""
    match provider:
        case "stripe":
            return {"account": f"acct_{uuid4().hex[:16]}", **changes}
        case "dwolla":
            return {"funding_source": str(uuid4()), **changes}
        case "square":
            return {"location_id": f"L{uuid4().hex[:12]}", **changes}
        case _:
            return {"phone": f"6{uuid4().int % 10**8:08}", **changes}


def currency_of(provider: str) -> str:
    return "XAF" if provider == "fapshi" else "USD"


def a_recipient(provider: str, **changes: Any) -> dict[str, Any]:
    account = "payouts" if provider in {"stripe", "fapshi"} else "default"
    return {
        "reference": f"seller-{uuid4().hex[:10]}",
        "name": "A Seller",
        "provider": provider,
        "account": account,
        "currency": currency_of(provider),
        "details": details(provider),
    } | changes


def add(paybus: Paybus, provider: str, **changes: Any) -> dict[str, Any]:
    request = a_recipient(provider, **changes)
    answer = paybus.api("POST", "payouts", "/v1/recipients", role="approver", json=request)
    assert answer.status_code == 201, answer.text
    recipient: dict[str, Any] = answer.json()
    return recipient


def post(
    paybus: Paybus, path: str, body: Mapping[str, Any], *, key: str | None = None, **more: Any
) -> httpx.Response:
    headers = {"Idempotency-Key": key or uuid4().hex}
    url = f"/v1/{path}"
    return paybus.api("POST", "payouts", url, json=body, extra_headers=headers, **more)


def request_for(recipient: Mapping[str, Any], amount: int = 5000, **changes: Any) -> dict[str, Any]:
    return {
        "recipient": recipient["reference"],
        "amount": amount,
        "currency": recipient["currency"],
    } | changes


def order(
    paybus: Paybus,
    recipient: Mapping[str, Any],
    amount: int = 5000,
    *,
    key: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    answer = post(paybus, "payouts", request_for(recipient, amount, **changes), key=key)
    assert answer.status_code == 201, answer.text
    payout: dict[str, Any] = answer.json()
    return payout


def act(paybus: Paybus, verb: str, id_: str, **more: Any) -> httpx.Response:
    url = f"/v1/payouts/{id_}/{verb}"
    return paybus.api("POST", "payouts", url, json={"reason": "a test"}, **more)


def read(paybus: Paybus, id_: str) -> dict[str, Any]:
    answer = paybus.api("GET", "payouts", f"/v1/payouts/{id_}")
    payout: dict[str, Any] = answer.raise_for_status().json()
    return payout


def until_state(paybus: Paybus, payout: Mapping[str, Any], *states: str) -> dict[str, Any]:
    until(
        lambda: read(paybus, payout["id"])["state"] in states,
        what=f"the payout {payout['id']} is {' or '.join(states)}",
    )
    return read(paybus, payout["id"])


def balances(paybus: Paybus, recipient: Mapping[str, Any]) -> dict[str, int]:
    """Return the balances; empty if there are none."""
    url = f"/v1/recipients/{recipient['id']}"
    found = paybus.api("GET", "payouts", url).raise_for_status().json()["balances"]
    return {k: v for k, v in found[0].items() if k != "currency"} if found else {}


def sandbox(paybus: Paybus, method: str, path: str, **body: Any) -> Any:
    url = f"{paybus.layout.url('sandbox-providers')}{path}"
    answer = paybus.http.request(method, url, json=body or None)
    return answer.raise_for_status().json()


def behave(paybus: Paybus, **shares: float) -> None:
    sandbox(paybus, "PUT", "/_payouts/behaviour", **({"error": 0} | shares))


def fates(paybus: Paybus, **shares: float) -> None:
    sandbox(paybus, "PUT", "/_payouts/fates", **({"fail": 0} | shares))


def well(paybus: Paybus) -> None:
    deliver(paybus)
    behave(paybus)
    fates(paybus)


def deliver(paybus: Paybus, **delivery: float) -> None:
    gateway = f"{paybus.layout.url('webhook-gateway')}/webhooks"
    urls = {name: f"{gateway}/{path}" for name, path in CALLED.items()}
    sandbox(paybus, "PUT", "/_delivery", urls=urls, **delivery)


def look_now(paybus: Paybus, payout: Mapping[str, Any]) -> None:
    """Make the payout's next action due now."""
    paybus.sql(
        "payouts",
        "UPDATE payouts SET next_action_at = now() WHERE id = %s AND next_action_at IS NOT NULL",
        payout["id"],
    )


def earned(
    recipient: Mapping[str, Any],
    amount: int,
    key: str | None = None,
    *,
    type_: str = "earnings.credit",
) -> Event[EarningsAdjustment]:
    """Return the event by which orders report a recipient's earnings, paid immediately if there is
    no schedule, or reverse them (`earnings.reverse`)."""
    key = key or uuid4().hex
    return new_event(
        id=key,
        type=type_,
        source="/orders",
        subject=key,
        tenant="default",
        data=EarningsAdjustment(
            request_id=key,
            recipient=recipient["reference"],
            amount=amount,
            currency=recipient["currency"],
            reason="a sale",
        ),
    )


def sent_earlier(paybus: Paybus, payout: Mapping[str, Any], *, days: int) -> None:
    """Make the payout's attempts older by `days`."""
    paybus.sql(
        "payouts",
        "UPDATE attempts SET started_at = started_at - make_interval(days => %s), "
        "deadline = deadline - make_interval(days => %s) WHERE payout_id = %s",
        days,
        days,
        payout["id"],
    )


def transfers(paybus: Paybus, payout: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the payout's transfers in the provider's books."""
    found = sandbox(paybus, "GET", "/_payouts")["transfers"]
    return [each for each in found if each["reference"] == payout["id"]]


def paid(paybus: Paybus, payout: Mapping[str, Any]) -> int:
    """Return the amount that the recipient has received of it, in minor units."""
    return sum(each["amount"] for each in transfers(paybus, payout) if each["status"] == "paid")


def reconcile(paybus: Paybus, day: date) -> list[dict[str, Any]]:
    """Reconcile every account now; return the open discrepancies."""
    before = len(paybus.log("payouts-worker"))
    url = f"/v1/reports/reconciliation?day={day}"
    accounts = paybus.api("POST", "payouts", url).json()["accounts"]

    def reconciled() -> set[str]:
        lines = paybus.log("payouts-worker")[before:].splitlines(keepends=True)
        said = [json.loads(each) for each in lines if each.endswith("\n")]
        return {each["account"] for each in said if each["message"] == "reconciled"}

    until(lambda: len(reconciled()) == accounts, what="all accounts are reconciled")
    answer = paybus.api("GET", "payouts", "/v1/reports/discrepancies?limit=200").json()
    return [each for each in answer["items"] if each["resolved_at"] is None]


def discrepancies(paybus: Paybus, payout: Mapping[str, Any]) -> list[str]:
    """Return the kinds of the payout's discrepancies."""
    answer = paybus.api("GET", "payouts", "/v1/reports/discrepancies?limit=200").json()
    return [each["kind"] for each in answer["items"] if each["payout_id"] == payout["id"]]


def cli(paybus: Paybus, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as an operator does."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "DATABASE_URL": paybus.layout.databases["payouts"],
        "PAYOUTS_URL": paybus.layout.url("payouts-api"),
        "PAYBUS_TOKEN": paybus.token("approver"),
        **env,
    }
    return warm.run("payouts.cli.main", arguments, environment)

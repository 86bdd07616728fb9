"""A shop that starts checkouts, and its customers."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx

from support.mobile_money import sandbox
from support.paybus import Paybus
from support.waiting import until

AMOUNT = 5000

PROCESSES = [
    "sandbox-providers",
    "webhook-gateway",
    "webhook-gateway-worker",
    "subscription-api",
    "subscription-worker",
]


def order(provider: str, **changes: Any) -> dict[str, Any]:
    """Return a new customer's request for a month of `gold`."""
    plan = {"plan_id": "gold", "name": "Gold", "interval": "month"}
    customer = {
        "reference": f"user-{uuid4().hex[:10]}",
        "email": "ama@example.com",
        "name": "Ama",
        "phone": "237670000000",
    }
    return {
        "provider": provider,
        "amount": AMOUNT,
        "currency": "XAF",
        "customer": customer,
        "plan": plan,
        "return_url": "https://shop.example.com/thanks",
    } | changes


def post(
    paybus: Paybus, request: dict[str, Any], *, key: str | None = None, **more: Any
) -> httpx.Response:
    headers = {"Idempotency-Key": key or uuid4().hex}
    return paybus.api(
        "POST", "subscription", "/v1/checkouts", json=request, extra_headers=headers, **more
    )


def start(paybus: Paybus, request: dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
    answer = post(paybus, request, key=key)
    assert answer.status_code == 201, answer.text
    checkout: dict[str, Any] = answer.json()
    return checkout


def settle(paybus: Paybus, checkout: dict[str, Any], standing: str = "succeeded") -> None:
    """Set the status of the payment at the provider, as the payer's action would."""
    url = f"/_payments/{checkout['provider']}/_{checkout['reference']}"
    sandbox(paybus, "PUT", url, standing=standing)


def read(paybus: Paybus, what: str, id_: str | None) -> dict[str, Any]:
    """Return the object; empty if there is none."""
    answer = paybus.api("GET", "subscription", f"/v1/{what}/{id_}")
    if answer.status_code == 404:
        return {}
    body: dict[str, Any] = answer.raise_for_status().json()
    return body


def until_status(paybus: Paybus, checkout: dict[str, Any], status: str) -> None:
    until(
        lambda: read(paybus, "checkouts", checkout["id"])["status"] == status,
        what=f"the checkout is {status}",
    )


def until_subscription(paybus: Paybus, checkout: dict[str, Any], status: str) -> dict[str, Any]:
    id_ = checkout["subscription_id"]
    until(
        lambda: read(paybus, "subscriptions", id_).get("status") == status,
        what=f"the subscription is {status}",
    )
    return read(paybus, "subscriptions", id_)


def payments_at(paybus: Paybus, provider: str) -> list[dict[str, Any]]:
    books = sandbox(paybus, "GET", "/_money")["payments"]
    return [each for each in books if each["provider"] == provider]


def told(paybus: Paybus, subscription_id: str) -> list[str]:
    """Return the subscription's events published since the tap was opened."""
    return [
        each["type"].partition(".")[2]
        for each in paybus.tapped()
        if each["subject"] == subscription_id
    ]


def until_told(paybus: Paybus, checkout: dict[str, Any], *changes: str) -> None:
    """Wait for exactly these events of the checkout's subscription; events are published after the
    row is written."""
    id_ = checkout["subscription_id"]
    until(lambda: told(paybus, id_) == list(changes), what=f"{changes} are told")

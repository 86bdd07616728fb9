"""A marketplace: its orders, its buyers and its sellers."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx

from support import payouts
from support.billing import stripe
from support.mobile_money import sandbox
from support.paybus import Paybus
from support.waiting import until

PROCESSES = [
    "sandbox-providers",
    "sandbox-stripe",
    "webhook-gateway",
    "webhook-gateway-worker",
    "subscription-api",
    "subscription-worker",
    "payouts-api",
    "payouts-worker",
    "orders-api",
    "orders-worker",
]
QUICK = {"ORDERS_INTERVAL_SECONDS": "1", "PAYOUTS_INTERVAL_SECONDS": "0.5"}
# All fields, because omitted ones would keep the values that another test set.
TERMS = {
    "currency": "USD",
    "grace_seconds": 3 * 86_400,
    "reminder_seconds": 86_400,
    "holding_seconds": 0,
    "fee_basis_points": 1000,
    "late_payment": "refund",
    "oldest_rate_days": 4,
}


def call(paybus: Paybus, method: str, path: str, **request: Any) -> httpx.Response:
    """Call the orders API with the given idempotency key, or else a new one."""
    headers = {"Idempotency-Key": request.pop("key", None) or uuid4().hex}
    return paybus.api(method, "orders", f"/v1/{path}", extra_headers=headers, **request)


def done(paybus: Paybus, method: str, path: str, **request: Any) -> dict[str, Any]:
    answer = call(paybus, method, path, **request)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def set_terms(paybus: Paybus, **changes: Any) -> None:
    done(paybus, "PUT", "terms", json=TERMS | changes, role="admin")


def line(seller: str, price: int, **changes: Any) -> dict[str, Any]:
    return {"seller": seller, "description": "a thing", "unit_price": price} | changes


def an_order(*lines: dict[str, Any]) -> dict[str, Any]:
    buyer = {"reference": f"buyer-{uuid4().hex[:8]}", "email": "kofi@example.com"}
    return {"reference": f"O-{uuid4().hex[:8]}", "buyer": buyer, "lines": list(lines)}


def place(paybus: Paybus, *lines: dict[str, Any]) -> dict[str, Any]:
    return done(paybus, "POST", "orders", json=an_order(*lines))


def see(paybus: Paybus, order: dict[str, Any]) -> dict[str, Any]:
    return done(paybus, "GET", f"orders/{order['id']}")


def start_payment(
    paybus: Paybus, order: dict[str, Any], provider: str = "stripe", **changes: Any
) -> dict[str, Any]:
    request = {"provider": provider, "return_url": "https://shop.example.com/thanks"} | changes
    return done(paybus, "POST", f"orders/{order['id']}/payments", json=request)


def pay(paybus: Paybus, payment: dict[str, Any], *, silently: bool = False) -> None:
    """Pay as the buyer would; with `silently`, the provider sends no callback."""
    checkout = paybus.api("GET", "subscription", f"/v1/checkouts/{payment['id']}").json()
    if payment["provider"] == "stripe":
        stripe = paybus.layout.url("sandbox-stripe")
        url = f"{stripe}/_config/checkout/{checkout['reference']}/pay"
        paybus.http.post(url).raise_for_status()
    else:
        url = f"/_payments/{payment['provider']}/_{checkout['reference']}"
        sandbox(paybus, "PUT", url, standing="succeeded", silently=silently)


def until_state(paybus: Paybus, order: dict[str, Any], state: str) -> dict[str, Any]:
    until(lambda: see(paybus, order)["state"] == state, what=f"the order is {state}", pause=0.2)
    return see(paybus, order)


def until_refunds(paybus: Paybus, order: dict[str, Any], *states: str) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        refunds: list[dict[str, Any]] = see(paybus, order)["refunds"]
        return refunds

    until(
        lambda: [each["state"] for each in found()] == list(states),
        what=f"its refunds are {states}",
        pause=0.2,
    )
    return found()


def a_seller(paybus: Paybus, **changes: Any) -> str:
    """Add a seller who is paid in dollars, on request only."""
    made = payouts.add(paybus, "stripe", **changes)
    return str(made["reference"])


def intent_of(paybus: Paybus, payment: dict[str, Any]) -> dict[str, Any]:
    """Return the payment intent of the checkout's session at Stripe."""
    checkout = paybus.api("GET", "subscription", f"/v1/checkouts/{payment['id']}").json()
    session = stripe(paybus, "GET", f"checkout/sessions/{checkout['reference']}")
    return stripe(paybus, "GET", f"payment_intents/{session['payment_intent']}")


def refunds_at_stripe(paybus: Paybus, payment: dict[str, Any]) -> list[int]:
    intent = intent_of(paybus, payment)["id"]
    made = stripe(paybus, "GET", f"refunds?payment_intent={intent}&limit=100")["data"]
    return [each["amount"] for each in made if each["status"] != "failed"]


def dispute(paybus: Paybus, payment: dict[str, Any], status: str, **more: Any) -> None:
    """Begin a dispute of the payment as its payer's bank would, or continue it."""
    charge = intent_of(paybus, payment)["latest_charge"]
    url = f"{paybus.layout.url('sandbox-stripe')}/_config/charges/{charge}/dispute"
    paybus.http.put(url, json={"status": status, **more}).raise_for_status()


def until_held(paybus: Paybus, order: dict[str, Any], held: int, **shares: int) -> dict[str, Any]:
    """Wait until that much is held back, and check each seller's part of it."""
    until(lambda: see(paybus, order)["held"] == held, what=f"{held} is held", pause=0.2)
    found = see(paybus, order)
    assert {each["seller"]: each["held"] for each in found["shares"]} == shares
    return found


def paid_to(paybus: Paybus, seller: str) -> int:
    """Return the sum of this seller's payouts in any state."""
    items = paybus.api("GET", "payouts", "/v1/payouts?limit=200").json()["items"]
    return sum(each["amount"] for each in items if each["recipient"] == seller)


def balance_of(paybus: Paybus, seller: str) -> int:
    """Return the amount available for payout; negative if more was paid than earned."""
    found = paybus.sql(
        "payouts",
        "SELECT coalesce(sum(available), 0) FROM balances b JOIN recipients r "
        "ON r.id = b.recipient_id WHERE r.reference = %s",
        seller,
    )
    return int(found[0][0])

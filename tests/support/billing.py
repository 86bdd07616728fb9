"""A shop that bills at Stripe, and changes made directly at Stripe."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx

from common.contracts.subscriptions import ResumeBillingCommand
from common.messaging.events import new_event
from support.paybus import Paybus
from support.waiting import until

PROCESSES = [
    "sandbox-stripe",
    "sandbox-providers",
    "webhook-gateway",
    "webhook-gateway-worker",
    "subscription-api",
    "subscription-worker",
]
_CARD_NUMBER = "4242424242424242"
_CARD = {"exp_month": 12, "exp_year": 2040, "cvc": "123"}
# This card can be attached, but its charges fail:
# https://docs.stripe.com/testing#declined-payments.
BAD_CARD = "4000000000000341"


def offer(paybus: Paybus) -> None:
    """Create two plans and a coupon."""
    offer_plan(paybus, "gold", 2000)
    offer_plan(paybus, "silver", 1000)
    stripe(paybus, "POST", "coupons", id="half", duration="once", percent_off=50)


def offer_plan(paybus: Paybus, name: str, amount: int, *, interval: str = "month") -> None:
    plan = {"id": name, "amount": amount, "currency": "usd", "interval": interval}
    stripe(paybus, "POST", "plans", **plan, **{"product[name]": name})


def stripe(paybus: Paybus, method: str, path: str, **data: Any) -> dict[str, Any]:
    """Call Stripe's API directly, not through Paybus."""
    url = f"{paybus.layout.url('sandbox-stripe')}/v1/{path}"
    answer = paybus.http.request(method, url, data=data or None, auth=("sk_test_x", ""))
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def move(paybus: Paybus, subscription: str, **changes: Any) -> None:
    """Change a subscription as Stripe or its portal would."""
    url = f"{paybus.layout.url('sandbox-stripe')}/_config/subscriptions/{subscription}"
    paybus.http.put(url, json=changes).raise_for_status()


def behave(paybus: Paybus, mode: str, *, delay: float = 0.0, under: str = "/") -> None:
    """Set the behaviour of Stripe's API: `delay` in seconds, `under` the affected prefix."""
    url = f"{paybus.layout.url('sandbox-stripe')}/_config/behaviour"
    paybus.http.put(url, json={"mode": mode, "delay": delay, "under": under}).raise_for_status()


def until_called(paybus: Paybus) -> None:
    """Wait until a call has reached Stripe that the behaviour set last affects."""
    url = f"{paybus.layout.url('sandbox-stripe')}/_config/behaviour"
    until(lambda: paybus.http.get(url).raise_for_status().json()["calls"], what="a call came")


def call(paybus: Paybus, method: str, path: str, **request: Any) -> httpx.Response:
    headers = {"Idempotency-Key": request.pop("key", None) or uuid4().hex}
    return paybus.api(method, "subscription", f"/v1/{path}", extra_headers=headers, **request)


def done(paybus: Paybus, method: str, path: str, **request: Any) -> Any:
    answer = call(paybus, method, path, **request)
    assert answer.is_success, answer.text
    return answer.json()


def a_card(paybus: Paybus, customer: str, number: str = _CARD_NUMBER) -> str:
    card = {f"card[{name}]": value for name, value in (_CARD | {"number": number}).items()}
    method = stripe(paybus, "POST", "payment_methods", type="card", **card)["id"]
    stripe(paybus, "POST", f"payment_methods/{method}/attach", customer=customer)
    return str(method)


def a_customer(paybus: Paybus, *, seats: int = 1) -> tuple[str, str, str]:
    """Create a customer with a card and a subscription to silver. Returns Stripe's id of the
    customer, our id of it, and our id of the subscription."""
    made = stripe(paybus, "POST", "customers", email="ama@example.com", name="Ama")["id"]
    chosen = {"invoice_settings[default_payment_method]": a_card(paybus, made)}
    stripe(paybus, "POST", f"customers/{made}", **chosen)
    item = {"items[0][price]": "silver", "items[0][quantity]": str(seats)}
    stripe(paybus, "POST", "subscriptions", customer=made, **item)

    def customer() -> str:
        items = call(paybus, "GET", f"customers?provider_customer_id={made}").json()["items"]
        return str(items[0]["id"]) if items else ""

    ours = until(customer, what="the customer is known")
    until(lambda: subscriptions(paybus, ours), what="the subscription is known")
    return made, ours, subscriptions(paybus, ours)[0]["id"]


def an_open_invoice(paybus: Paybus) -> str:
    """Return the Stripe id of an open invoice of a customer whose card is declined."""
    made = stripe(paybus, "POST", "customers", email="kofi@example.com", name="Kofi")["id"]
    chosen = {"invoice_settings[default_payment_method]": a_card(paybus, made, BAD_CARD)}
    stripe(paybus, "POST", f"customers/{made}", **chosen)
    stripe(paybus, "POST", "subscriptions", customer=made, **{"items[0][price]": "silver"})
    (invoice,) = stripe(paybus, "GET", f"invoices?customer={made}")["data"]
    assert invoice["status"] == "open"
    return str(invoice["id"])


def take_up(paybus: Paybus, command: str) -> None:
    """Publish the command that resumes a billing command, as the scheduled job does."""
    event = new_event(
        id=uuid4().hex,
        type="billing_command.resume",
        source="/subscription",
        subject=command,
        tenant="default",
        data=ResumeBillingCommand(command_id=command),
    )
    paybus.publish_to("subscriptions", event.type, event.encode().decode())


def price(subscription: dict[str, Any]) -> str:
    """Return the price of a Stripe subscription with one item."""
    (item,) = subscription["items"]["data"]
    return str(item["price"]["id"])


def subscriptions(paybus: Paybus, customer: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call(
        paybus, "GET", f"subscriptions?customer_id={customer}"
    ).json()["items"]
    return found


def until_confirmed(paybus: Paybus, command: dict[str, Any]) -> None:
    path = f"commands/{command['id']}"
    until(lambda: done(paybus, "GET", path)["confirmed_at"], what="its webhook confirms it")


def until_seen(paybus: Paybus, subscription: str, **request: Any) -> None:
    def seen() -> bool:
        found = done(paybus, "GET", f"subscriptions/{subscription}")
        return all(found[name] == value for name, value in request.items())

    until(seen, what=f"the subscription is {request}")

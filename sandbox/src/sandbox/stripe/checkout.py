"""Stripe Checkout for localstripe, which lacks it: sessions, and a payer.

`POST /_config/checkout/{session}/pay` acts as a payer who completes the page, `/expire` as one who
never does.
"""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web
from localstripe.errors import UserError
from localstripe.resources import (
    Customer,
    Event,
    PaymentIntent,
    PaymentMethod,
    Plan,
    StripeObject,
    Subscription,
)
from localstripe.server import get_post_data, json_response
from localstripe.webhooks import schedule_webhook

from sandbox.stripe.api import refusal

_LIFETIME_SECONDS = 24 * 3600


class CheckoutSession(StripeObject):  # type: ignore[misc]
    """The object of https://docs.stripe.com/api/checkout/sessions/object, as far as used here."""

    object = "checkout.session"
    _id_prefix = "cs_test_"

    def __init__(self, request: dict[str, Any], base: str) -> None:
        (item,) = request["line_items"]
        plan = Plan._api_retrieve(item["price"]) if "price" in item else item["price_data"]
        amount = plan.amount if "price" in item else plan["unit_amount"]
        currency = plan.currency if "price" in item else plan["currency"]
        if refused := refusal(int(amount), currency):
            raise UserError(400, refused)
        super().__init__()
        self.mode = request["mode"]
        self.client_reference_id = request.get("client_reference_id")
        self.customer_email = request.get("customer_email")
        self.metadata = request.get("metadata") or {}
        self.customer: str | None = None
        self.customer_details: dict[str, str] | None = None
        self.subscription: str | None = None
        self.payment_intent: str | None = None
        self.amount_total = int(amount)
        self.currency = currency
        self.expires_at = int(time.time()) + _LIFETIME_SECONDS
        self.payment_status = "unpaid"
        self.status = "open"
        self.url = f"{base}/pay/{self.id}"
        self._item = item
        self._subscription_data = request.get("subscription_data") or {}

    def _pay(self) -> None:  # names without an underscore are exported
        if self.status != "open":
            raise UserError(400, "the session is not open")
        details = {"email": self.customer_email or "payer@example.com", "name": "A Payer"}
        if self.mode == "subscription":
            self.customer, self.subscription = self._subscribe(details)
        else:
            self.payment_intent = self._charge(details)
        self.customer_details = details
        self.payment_status, self.status = "paid", "complete"
        schedule_webhook(Event("checkout.session.completed", self))

    def _expire(self) -> None:
        self.status = "expired"
        schedule_webhook(Event("checkout.session.expired", self))

    def _charge(self, details: dict[str, str]) -> str:
        customer, method = _payer(details)
        intent = PaymentIntent._api_create(
            amount=self.amount_total,
            currency=self.currency,
            customer=customer,
            payment_method=method,
            confirm=True,
        )
        return str(intent.id)

    def _subscribe(self, details: dict[str, str]) -> tuple[str, str]:
        customer, method = _payer(details)
        subscription = Subscription._api_create(
            customer=customer,
            default_payment_method=method,  # of the subscription only, as in Checkout
            items=[{"plan": self._item["price"]}],
            metadata=self._subscription_data.get("metadata"),
        )
        return customer, subscription.id


def _payer(details: dict[str, str]) -> tuple[str, str]:
    """Create a customer with a card, and return both ids."""
    customer = Customer._api_create(**details)
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}
    method = PaymentMethod._api_create(type="card", card=card)
    PaymentMethod._api_attach(method.id, customer=customer.id)
    return customer.id, method.id


def install(app: web.Application) -> None:
    by_key: dict[str, CheckoutSession] = {}

    async def create(request: web.Request) -> Any:
        key = request.headers.get("Idempotency-Key")
        if key is None or key not in by_key:
            base = f"{request.scheme}://{request.host}"
            session = CheckoutSession(await get_post_data(request), base)
            by_key[key or session.id] = session
        return json_response(by_key[key or session.id]._export())

    async def retrieve(request: web.Request) -> Any:
        return json_response(CheckoutSession._api_retrieve(request.match_info["id"])._export())

    async def pay(request: web.Request) -> Any:
        session = CheckoutSession._api_retrieve(request.match_info["id"])
        session._pay()
        return json_response(session._export())

    async def expire(request: web.Request) -> Any:
        session = CheckoutSession._api_retrieve(request.match_info["id"])
        session._expire()
        return json_response(session._export())

    app.router.add_post("/v1/checkout/sessions", create)
    app.router.add_get("/v1/checkout/sessions/{id}", retrieve)
    app.router.add_post("/_config/checkout/{id}/expire", expire)
    app.router.add_post("/_config/checkout/{id}/pay", pay)

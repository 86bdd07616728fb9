"""Flutterwave v3, Standard: payment page.

https://developer.flutterwave.com/v3.0/docs/flutterwave-standard-1
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import HttpUrl, SecretStr

from common.clients.json_api import join_url, request_json
from subscription.providers import base
from subscription.providers.base import (
    CheckoutClient,
    CheckoutRequest,
    StartedCheckout,
    require_field,
    require_found,
)
from subscription.schemas.checkout import NewCheckout


class Options(base.Options):
    """Options of an account. `payment_options` are the payment methods that the page offers, such
    as `mobilemoneyfranco`; by default those of the dashboard."""

    secret_key: SecretStr
    payment_options: str | None = None
    base_url: HttpUrl = HttpUrl("https://api.flutterwave.com/v3")


class Flutterwave(CheckoutClient):
    options_model = Options
    options: Options
    lifetime = timedelta(hours=24)

    def check(self, request: NewCheckout) -> None:
        require_field(request, request.customer.email, "customer.email")
        require_field(request, request.return_url, "return_url")

    async def start(self, order: CheckoutRequest) -> StartedCheckout:
        customer = order.request.customer
        payer = {"email": customer.email, "name": customer.name, "phonenumber": customer.phone}
        body = {
            "tx_ref": order.reference,
            "amount": f"{order.major_amount:f}",
            "currency": order.currency,
            "redirect_url": str(order.request.return_url),
            "customer": {key: value for key, value in payer.items() if value is not None},
            "customizations": {"title": order.label},
            "configurations": {"session_duration": self.lifetime.total_seconds() // 60},
        }
        if self.options.payment_options is not None:
            body["payment_options"] = self.options.payment_options
        answer = await request_json(
            self.http,
            "POST",
            join_url(self.options.base_url, "payments"),
            headers={"Authorization": f"Bearer {self.options.secret_key.get_secret_value()}"},
            json=body,
        )
        return self.started_checkout(order, order.reference, require_found(answer)["data"]["link"])

"""Orange Money Web Payment: payment page. https://developer.orange.com/apis/om-webpay"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from uuid import UUID

from pydantic import HttpUrl, SecretStr

from common.clients.json_api import Object, join_url, request_json
from common.errors import Invalid
from subscription.providers import base
from subscription.providers.base import (
    CheckoutRequest,
    OAuthCheckoutClient,
    StartedCheckout,
    require_field,
    require_found,
    require_whole_units,
)
from subscription.schemas.checkout import NewCheckout

_DIGITS_OF_ID = 26  # of an order id's 30 characters


class Options(base.Options):
    """Options of an account. `callback_url` is the gateway's endpoint."""

    client_id: str
    client_secret: SecretStr
    merchant_key: SecretStr
    callback_url: HttpUrl
    country: str = "cm"
    language: str = "fr"
    base_url: HttpUrl = HttpUrl("https://api.orange.com")


class OrangeMoney(OAuthCheckoutClient):
    options_model = Options
    options: Options
    lifetime = timedelta(hours=1)

    def check(self, request: NewCheckout) -> None:
        require_field(request, request.return_url, "return_url")
        require_whole_units(request)

    def reference(self, checkout_id: str, attempt: int) -> str:
        """Return an order id: it has at most 30 characters, and is accepted once."""
        if attempt > 999:
            raise Invalid("too many attempts: start another checkout")
        return f"{UUID(checkout_id).hex[:_DIGITS_OF_ID]}.{attempt}"

    async def _fetch_token(self) -> Object | None:
        return await request_json(
            self.http,
            "POST",
            join_url(self.options.base_url, "oauth", "v3", "token"),
            auth=(self.options.client_id, self.options.client_secret.get_secret_value()),
            data={"grant_type": "client_credentials"},
        )

    async def _start(self, order: CheckoutRequest, token: str) -> StartedCheckout:
        back = str(order.request.return_url)
        pages = (self.options.country, "v1", "webpayment")
        answer = await request_json(
            self.http,
            "POST",
            join_url(self.options.base_url, "orange-money-webpay", *pages),
            headers={"Authorization": f"Bearer {token}"},
            json={
                "merchant_key": self.options.merchant_key.get_secret_value(),
                "currency": order.currency,
                "order_id": order.reference,
                "amount": int(order.major_amount),
                "return_url": back,
                "cancel_url": back,
                "notif_url": str(self.options.callback_url),
                "lang": self.options.language,
                "reference": order.label[:30],
            },
        )
        page = require_found(answer)
        return self.started_checkout(
            order,
            order.reference,
            page["payment_url"],
            # The token authenticates notifications of the payment: only its hash is published.
            notification_reference=hashlib.sha256(page["notif_token"].encode()).hexdigest(),
            lookup={
                "order_id": order.reference,
                "amount": str(int(order.major_amount)),
                "currency": order.currency,
                "pay_token": page["pay_token"],
            },
        )

"""Fapshi: payment link. https://docs.fapshi.com/en/api-reference/endpoint/generate-link"""

from __future__ import annotations

from datetime import timedelta

from pydantic import HttpUrl, SecretStr

from common.clients.json_api import join_url, request_json
from common.errors import Invalid
from subscription.providers import base
from subscription.providers.base import (
    CheckoutClient,
    CheckoutRequest,
    StartedCheckout,
    require_found,
)
from subscription.schemas.checkout import NewCheckout

_LEAST = 100


class Options(base.Options):
    api_user: str
    api_key: SecretStr
    base_url: HttpUrl = HttpUrl("https://live.fapshi.com")


class Fapshi(CheckoutClient):
    options_model = Options
    options: Options
    lifetime = timedelta(hours=24)

    def check(self, request: NewCheckout) -> None:
        if request.currency != "XAF" or (request.amount or 0) < _LEAST:
            raise Invalid(f"fapshi accepts XAF only, at least {_LEAST}")

    async def start(self, order: CheckoutRequest) -> StartedCheckout:
        request = order.request
        body = {
            "amount": order.amount,
            "externalId": order.reference,
            "message": order.label,
            "email": request.customer.email,
            "redirectUrl": str(request.return_url) if request.return_url else None,
        }
        answer = await request_json(
            self.http,
            "POST",
            join_url(self.options.base_url, "initiate-pay"),
            headers={
                "apiuser": self.options.api_user,
                "apikey": self.options.api_key.get_secret_value(),
            },
            json={key: value for key, value in body.items() if value is not None},
        )
        payment = require_found(answer)
        return self.started_checkout(order, payment["transId"], payment["link"])

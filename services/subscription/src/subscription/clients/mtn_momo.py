"""MTN MoMo: a request to pay, which the payer confirms on the phone.

https://momodeveloper.mtn.com/API-collections#api=collection
"""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from pydantic import HttpUrl, SecretStr

from common.outside import Object, Refused, call, url
from subscription import clients
from subscription.clients import Order, Started, TokenClient, there, wants
from subscription.requests import NewCheckout

_ALREADY_THERE = 409
_LONGEST_MESSAGE = 160


class Options(clients.Options):
    """`callback_url` is the gateway's endpoint; its host must be the one MTN knows the user by."""

    subscription_key: SecretStr
    api_user: str
    api_key: SecretStr
    target_environment: str = "mtncameroon"
    callback_url: HttpUrl | None = None
    base_url: HttpUrl = HttpUrl("https://proxy.momoapi.mtn.com")


class MtnMomo(TokenClient):
    options_model = Options
    options: Options
    lifetime = timedelta(minutes=30)  # the payer has five to confirm
    asks_the_payer = True

    def check(self, wanted: NewCheckout) -> None:
        wants(wanted, wanted.customer.phone, "customer.phone")

    def reference(self, checkout_id: str, attempt: int) -> str:
        """MTN takes random UUIDs (version 4) only, and each only once: a second call with the same
        one asks nobody again."""
        return str(uuid4())

    async def _fetch_token(self) -> Object | None:
        return await call(
            self.http,
            "POST",
            url(self.options.base_url, "collection", "token", ""),
            auth=(self.options.api_user, self.options.api_key.get_secret_value()),
            headers=self._key,
        )

    async def _start(self, order: Order, token: str) -> Started:
        headers = self._key | {
            "Authorization": f"Bearer {token}",
            "X-Reference-Id": order.reference,
            "X-Target-Environment": self.options.target_environment,
        }
        if self.options.callback_url is not None:
            headers["X-Callback-Url"] = str(self.options.callback_url)
        label = order.label[:_LONGEST_MESSAGE]
        phone = (order.wanted.customer.phone or "").removeprefix("+")
        body = {
            "amount": f"{order.major_amount:f}",
            "currency": order.currency,
            "externalId": order.reference,  # a callback names the payment by this only
            "payer": {"partyIdType": "MSISDN", "partyId": phone},
            "payerMessage": label,
            "payeeNote": label,
        }
        requests = url(self.options.base_url, "collection", "v1_0", "requesttopay")
        try:
            there(await call(self.http, "POST", requests, headers=headers, json=body))
        except Refused as error:
            if error.status != _ALREADY_THERE:
                raise
        return self.started(order, order.reference, None)

    @property
    def _key(self) -> dict[str, str]:
        return {"Ocp-Apim-Subscription-Key": self.options.subscription_key.get_secret_value()}

"""MTN MoMo: request to pay, which the payer confirms on the phone.

https://momodeveloper.mtn.com/API-collections#api=collection
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from uuid import UUID

from pydantic import HttpUrl, SecretStr

from common.clients.json_api import Object, join_url, request_json
from common.errors import ProviderRejected
from subscription.providers import base
from subscription.providers.base import (
    CheckoutRequest,
    OAuthCheckoutClient,
    StartedCheckout,
    require_field,
    require_found,
)
from subscription.schemas.checkout import NewCheckout

_ALREADY_THERE = 409
_LONGEST_MESSAGE = 160


class Options(base.Options):
    """Options of an account. `callback_url` is the gateway's endpoint; its host must be the one
    that MTN has on record for the API user."""

    subscription_key: SecretStr
    api_user: str
    api_key: SecretStr
    target_environment: str = "mtncameroon"
    callback_url: HttpUrl | None = None
    base_url: HttpUrl = HttpUrl("https://proxy.momoapi.mtn.com")


class MtnMomo(OAuthCheckoutClient):
    options_model = Options
    options: Options
    lifetime = timedelta(minutes=30)  # the payer has five minutes to confirm
    pushes_to_payer = True

    def check(self, request: NewCheckout) -> None:
        require_field(request, request.customer.phone, "customer.phone")

    def reference(self, checkout_id: str, attempt: int) -> str:
        """Return the same UUID for every attempt. MTN accepts only UUIDs of version 4, each once: a
        second call with the same one does not prompt the payer again, even for a checkout lost in a
        restore."""
        digest = hashlib.sha256(f"mtn-momo {checkout_id}".encode()).digest()
        return str(UUID(bytes=digest[:16], version=4))

    async def _fetch_token(self) -> Object | None:
        return await request_json(
            self.http,
            "POST",
            join_url(self.options.base_url, "collection", "token", ""),
            auth=(self.options.api_user, self.options.api_key.get_secret_value()),
            headers=self._key,
        )

    async def _start(self, order: CheckoutRequest, token: str) -> StartedCheckout:
        headers = self._key | {
            "Authorization": f"Bearer {token}",
            "X-Reference-Id": order.reference,
            "X-Target-Environment": self.options.target_environment,
        }
        if self.options.callback_url is not None:
            headers["X-Callback-Url"] = str(self.options.callback_url)
        label = order.label[:_LONGEST_MESSAGE]
        phone = (order.request.customer.phone or "").removeprefix("+")
        body = {
            "amount": f"{order.major_amount:f}",
            "currency": order.currency,
            "externalId": order.reference,  # a callback names the payment only by this
            "payer": {"partyIdType": "MSISDN", "partyId": phone},
            "payerMessage": label,
            "payeeNote": label,
        }
        requests = join_url(self.options.base_url, "collection", "v1_0", "requesttopay")
        try:
            require_found(
                await request_json(self.http, "POST", requests, headers=headers, json=body)
            )
        except ProviderRejected as error:
            if error.status != _ALREADY_THERE:
                raise
        return self.started_checkout(order, order.reference, None)

    @property
    def _key(self) -> dict[str, str]:
        return {"Ocp-Apim-Subscription-Key": self.options.subscription_key.get_secret_value()}

"""Orange Money Web Payment.

https://developer.orange.com/apis/om-webpay: a notification carries the `notif_token` that the
payment's creation returned. Only the creator knows it, so it is hashed before it is published, and
the worker compares the hash with the stored one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
from pydantic import HttpUrl, SecretStr

from common.clients.json_api import join_url, request_json
from common.contracts.event import Event
from common.contracts.money import minor_units
from webhook_gateway.domain import PaymentStatus
from webhook_gateway.providers import pollable
from webhook_gateway.providers.base import Authentication, OtherGeneration, digest
from webhook_gateway.providers.base import Options as CommonOptions
from webhook_gateway.providers.pollable import PaymentQuery, PaymentStatusResult, UnsignedProvider


class Options(CommonOptions):
    """Credentials of the API. Without them notifications cannot be confirmed by a status query."""

    client_id: str = ""
    client_secret: SecretStr = SecretStr("")
    country: str = "cm"
    base_url: HttpUrl = HttpUrl("https://api.orange.com")


class OrangeMoney(UnsignedProvider):
    name = "orange-money"
    notifies_by_secret = True
    options_model = Options
    options: Options

    def _translate(self, webhook: Any, proof: Authentication) -> Sequence[Event[Any]]:
        token = webhook.get("notif_token")
        if not isinstance(token, str) or "status" not in webhook:
            raise OtherGeneration(
                "not a notification of Orange Money's Web Payment API: it has a `status`, and the "
                "payment's `notif_token`"
            )
        return [self.notification(digest(token.encode()), webhook["status"], proof)]

    @property
    def can_be_polled(self) -> bool:
        return bool(self.options.client_id and self.options.client_secret.get_secret_value())

    async def _poll(self, http: httpx.AsyncClient, query: PaymentQuery) -> PaymentStatusResult:
        """Query the status of a web payment by order, amount and pay token."""
        base = self.options.base_url
        login = (self.options.client_id, self.options.client_secret.get_secret_value())
        token = await self._token.get(
            lambda: request_json(
                http,
                "POST",
                join_url(base, "oauth", "v3", "token"),
                auth=login,
                data={"grant_type": "client_credentials"},
            )
        )
        asked = query.lookup
        payment = await request_json(
            http,
            "POST",
            join_url(base, "orange-money-webpay", self.options.country, "v1", "transactionstatus"),
            headers={"Authorization": f"Bearer {token}"},
            json={
                "order_id": asked["order_id"],
                "amount": int(Decimal(asked["amount"])),
                "pay_token": asked["pay_token"],
            },
        )
        if payment is None:
            return PaymentStatusResult(PaymentStatus.UNKNOWN)
        pollable.require_same_payment(
            replace(query, reference=asked["order_id"]), payment["order_id"]
        )
        return PaymentStatusResult(
            _STANDINGS[payment["status"]],
            amount=minor_units(asked["amount"], asked["currency"]),
            currency=asked["currency"],
            references=pollable.non_empty_texts(asked["order_id"], payment.get("txnid")),
        )


_STANDINGS = {
    "INITIATED": PaymentStatus.PENDING,
    "PENDING": PaymentStatus.PENDING,
    "SUCCESS": PaymentStatus.SUCCEEDED,
    "FAILED": PaymentStatus.FAILED,
    "EXPIRED": PaymentStatus.EXPIRED,
}

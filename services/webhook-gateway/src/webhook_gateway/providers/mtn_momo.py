"""MTN MoMo, collections.

https://momodeveloper.mtn.com/api-documentation/callback: sent once, by PUT or POST, without any
authentication. The body has the payment's status but not its reference id, so Paybus also sends the
reference as `externalId`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import httpx
from pydantic import HttpUrl, SecretStr

from common.clients.json_api import join_url, request_json
from common.contracts.event import Event
from common.contracts.money import minor_units
from webhook_gateway.domain import PaymentStatus
from webhook_gateway.providers import pollable
from webhook_gateway.providers.base import Authentication, OtherGeneration
from webhook_gateway.providers.base import Options as CommonOptions
from webhook_gateway.providers.pollable import PaymentQuery, PaymentStatusResult, UnsignedProvider


class Options(CommonOptions):
    """Credentials of the API. Without them notifications cannot be confirmed by a status query."""

    subscription_key: SecretStr = SecretStr("")
    api_user: str = ""
    api_key: SecretStr = SecretStr("")
    target_environment: str = "mtncameroon"
    base_url: HttpUrl = HttpUrl("https://proxy.momoapi.mtn.com")


class MtnMomo(UnsignedProvider):
    name = "mtn-momo"
    methods = frozenset({"POST", "PUT"})
    failure_is_final = True  # a request to pay is one attempt
    options_model = Options
    options: Options

    def _translate(self, webhook: Any, proof: Authentication) -> Sequence[Event[Any]]:
        named = webhook.get("referenceId") or webhook.get("externalId")
        if not _is_uuid(named) or "status" not in webhook:
            raise OtherGeneration(
                "not a callback of MTN MoMo's Collection API v1_0: it has a `status`, and the "
                "payment's UUID as `referenceId` or `externalId`"
            )
        return [self.notification(str(UUID(named)), webhook["status"], proof)]

    @property
    def can_be_polled(self) -> bool:
        return bool(self.options.api_user and self.options.subscription_key.get_secret_value())

    async def _poll(self, http: httpx.AsyncClient, query: PaymentQuery) -> PaymentStatusResult:
        """Query the status: https://momodeveloper.mtn.com/API-collections#api=collection,
        requesttopay status"""
        key = {"Ocp-Apim-Subscription-Key": self.options.subscription_key.get_secret_value()}
        base = self.options.base_url
        login = (self.options.api_user, self.options.api_key.get_secret_value())
        token = await self._token.get(
            lambda: request_json(
                http, "POST", join_url(base, "collection", "token", ""), auth=login, headers=key
            )
        )
        payment = await request_json(
            http,
            "GET",
            join_url(base, "collection", "v1_0", "requesttopay", query.reference),
            headers=key
            | {
                "Authorization": f"Bearer {token}",
                "X-Target-Environment": self.options.target_environment,
            },
        )
        if payment is None:
            return PaymentStatusResult(PaymentStatus.UNKNOWN)
        reason = payment.get("reason")
        return PaymentStatusResult(
            _STANDINGS[payment["status"]],
            amount=minor_units(str(payment["amount"]), payment["currency"]),
            currency=payment["currency"],
            references=pollable.non_empty_texts(
                payment.get("externalId"), payment.get("financialTransactionId")
            ),
            reason=reason.get("code") if isinstance(reason, dict) else reason,
        )


def _is_uuid(value: Any) -> bool:
    try:
        UUID(value)
    except (ValueError, TypeError, AttributeError):
        return False
    return True


_STANDINGS = {
    "CREATED": PaymentStatus.PENDING,
    "PENDING": PaymentStatus.PENDING,
    "SUCCESSFUL": PaymentStatus.SUCCEEDED,
    "FAILED": PaymentStatus.FAILED,
}

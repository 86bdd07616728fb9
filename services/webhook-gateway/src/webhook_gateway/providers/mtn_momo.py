"""MTN MoMo, collections.

https://momodeveloper.mtn.com/api-documentation/callback: sent once, by PUT or POST, with no
authentication at all. The body has the status of the payment but not its reference id, so Paybus
sends the reference as `externalId` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import httpx
from pydantic import HttpUrl, SecretStr

from common.contracts.event import Event
from common.contracts.money import minor_units
from common.outside import call, url
from webhook_gateway import asking, providers
from webhook_gateway.asking import Answer, Question, UnprovedProvider
from webhook_gateway.domain import Standing
from webhook_gateway.providers import Proof


class Options(providers.Options):
    """The API's credentials. Without them hints can't be asked about."""

    subscription_key: SecretStr = SecretStr("")
    api_user: str = ""
    api_key: SecretStr = SecretStr("")
    target_environment: str = "mtncameroon"
    base_url: HttpUrl = HttpUrl("https://proxy.momoapi.mtn.com")


class MtnMomo(UnprovedProvider):
    name = "mtn-momo"
    methods = frozenset({"POST", "PUT"})
    failure_is_final = True  # a request to pay is one attempt
    options_model = Options
    options: Options

    def _events(self, webhook: Any, proof: Proof) -> Sequence[Event[Any]]:
        reference = str(UUID(webhook.get("referenceId") or webhook["externalId"]))
        return [self.hint(reference, webhook["status"], proof)]

    @property
    def can_be_asked(self) -> bool:
        return bool(self.options.api_user and self.options.subscription_key.get_secret_value())

    async def _ask(self, http: httpx.AsyncClient, question: Question) -> Answer:
        """https://momodeveloper.mtn.com/API-collections#api=collection, requesttopay status"""
        key = {"Ocp-Apim-Subscription-Key": self.options.subscription_key.get_secret_value()}
        base = self.options.base_url
        login = (self.options.api_user, self.options.api_key.get_secret_value())
        token = await self._token.get(
            lambda: call(
                http, "POST", url(base, "collection", "token", ""), auth=login, headers=key
            )
        )
        payment = await call(
            http,
            "GET",
            url(base, "collection", "v1_0", "requesttopay", question.reference),
            headers=key
            | {
                "Authorization": f"Bearer {token}",
                "X-Target-Environment": self.options.target_environment,
            },
        )
        if payment is None:
            return Answer(Standing.UNKNOWN)
        reason = payment.get("reason")
        return Answer(
            _STANDINGS[payment["status"]],
            amount=minor_units(str(payment["amount"]), payment["currency"]),
            currency=payment["currency"],
            references=asking.texts(
                payment.get("externalId"), payment.get("financialTransactionId")
            ),
            reason=reason.get("code") if isinstance(reason, dict) else reason,
        )


_STANDINGS = {
    "CREATED": Standing.PENDING,
    "PENDING": Standing.PENDING,
    "SUCCESSFUL": Standing.SUCCEEDED,
    "FAILED": Standing.FAILED,
}

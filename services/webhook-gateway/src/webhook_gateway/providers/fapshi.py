"""Fapshi: mobile money in Cameroon.

https://docs.fapshi.com/en/api-reference/endpoint/webhook: the header `x-wh-secret` is the secret
itself, and a call is sent only once. The body is not signed, so it is unverified: Fapshi's own
examples query the payment's status before trusting it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import httpx
from pydantic import HttpUrl, SecretStr
from starlette.datastructures import Headers

from common.clients.json_api import join_url, request
from common.contracts.event import Event
from common.contracts.money import minor_units
from common.contracts.payouts import TransferReported
from webhook_gateway.domain import PaymentStatus
from webhook_gateway.providers import base, pollable, timestamps
from webhook_gateway.providers.base import Authentication
from webhook_gateway.providers.pollable import PaymentQuery, PaymentStatusResult, PollableProvider
from webhook_gateway.providers.signatures import require_single_header, verify_any_secret


class Options(base.Options):
    """Credentials of the API. Without them notifications cannot be confirmed by a status query.

    A Fapshi service that sends payouts accepts no payments. `payouts_only` marks such a service;
    the payouts service queries the status of its payouts.
    """

    payouts_only: bool = False

    api_user: str = ""
    api_key: SecretStr = SecretStr("")
    base_url: HttpUrl = HttpUrl("https://live.fapshi.com")


class Fapshi(PollableProvider):
    name = "fapshi"
    options_model = Options
    options: Options

    async def verify(self, headers: Headers, body: bytes) -> Authentication:
        given = require_single_header(headers, "x-wh-secret")
        verify_any_secret(given, self.secrets, lambda secret: secret, what="the secret")
        return Authentication("secret")

    def _translate(self, webhook: Any, proof: Authentication) -> Sequence[Event[Any]]:
        webhook = _one(webhook)
        if self.options.payouts_only:
            return [self._payout_hint(webhook, proof)]
        return [self.notification(webhook["transId"], webhook["status"], proof)]

    def _payout_hint(self, webhook: Any, proof: Authentication) -> Event[Any]:
        """Return a new event for every call, as for payments. The payouts service writes the
        payout's and the recipient's id into `externalId`."""
        reference, _, _ = (webhook.get("externalId") or "").partition("_")
        report = TransferReported(
            provider=self.name,
            transfer_id=webhook["transId"],
            reference=reference or None,
        )
        return self.event(
            "provider_payout.notification_received",
            report,
            id_=str(uuid4()),
            subject=webhook["transId"],
            proof=proof,
        )

    @property
    def can_be_polled(self) -> bool:
        return bool(self.options.api_user and self.options.api_key.get_secret_value())

    async def poll(self, http: httpx.AsyncClient, query: PaymentQuery) -> PaymentStatusResult:
        """Query the payment: https://docs.fapshi.com/en/api-reference/endpoint/payment-status"""
        answered = await request(
            http,
            "GET",
            join_url(self.options.base_url, "payment-status", query.reference),
            headers={
                "apiuser": self.options.api_user,
                "apikey": self.options.api_key.get_secret_value(),
            },
        )
        if answered is None:
            return PaymentStatusResult(PaymentStatus.UNKNOWN)
        payment = _one(answered.json())
        pollable.require_same_payment(query, payment["transId"])
        return PaymentStatusResult(
            _STANDINGS[payment["status"]],
            amount=minor_units(str(payment["amount"]), "XAF"),
            currency="XAF",
            references=pollable.non_empty_texts(payment.get("externalId")),
            contact=pollable.contact_of(payment.get("email"), payment.get("payerName")),
            reason=payment.get("reason"),
            at=timestamps.said(payment.get("dateConfirmed")),
        )


def _one(said: Any) -> Any:
    """Return the object: status and webhook are documented as an array of one and as an object."""
    if isinstance(said, list):
        (said,) = said
    return said


_STANDINGS = {
    "CREATED": PaymentStatus.PENDING,
    "PENDING": PaymentStatus.PENDING,
    "SUCCESSFUL": PaymentStatus.SUCCEEDED,
    "FAILED": PaymentStatus.FAILED,
    "EXPIRED": PaymentStatus.EXPIRED,
}

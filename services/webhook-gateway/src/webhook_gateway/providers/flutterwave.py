"""Flutterwave, v3 and v4.

v3 (https://developer.flutterwave.com/v3.0/docs/webhooks): the header `verif-hash` is the secret
hash itself. v4 (https://developer.flutterwave.com/docs/webhooks): `flutterwave-signature` is the
base64 HMAC-SHA256 of the body. Both ask to verify a transaction before giving value for it, so
charges are hints whatever the scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
from pydantic import HttpUrl, SecretStr
from starlette.datastructures import Headers

from common.clients.json_api import join_url, request_json
from common.contracts.event import Event, derived_id
from common.contracts.money import minor_units
from common.contracts.payouts import TransferReported
from common.errors import ProviderRejected, Upstream
from webhook_gateway.domain import PaymentStatus
from webhook_gateway.providers import base, pollable, timestamps
from webhook_gateway.providers.base import Authentication, Object
from webhook_gateway.providers.pollable import PaymentQuery, PaymentStatusResult, PollableProvider
from webhook_gateway.providers.signatures import (
    base64_hmac,
    require_single_header,
    verify_any_secret,
)

_TRANSFERS = {
    "successful": "provider_transfer.succeeded",
    "succeeded": "provider_transfer.succeeded",
    "failed": "provider_transfer.failed",
    "reversed": "provider_transfer.reversed",
}


class Options(base.Options):
    """`secret_key` is v3's, for its API. Without it hints can't be asked about."""

    secret_key: SecretStr = SecretStr("")
    base_url: HttpUrl = HttpUrl("https://api.flutterwave.com/v3")


class Flutterwave(PollableProvider):
    name = "flutterwave"
    options_model = Options
    options: Options
    charges_again = True  # a page can be paid again, and every charge has its `tx_ref`

    async def verify(self, headers: Headers, body: bytes) -> Authentication:
        if "flutterwave-signature" in headers:
            given = require_single_header(headers, "flutterwave-signature")
            verify_any_secret(
                given, self.secrets, lambda s: base64_hmac(s, body), what="the signature"
            )
            return Authentication("signature")
        given = require_single_header(headers, "verif-hash")
        verify_any_secret(given, self.secrets, lambda secret: secret, what="the secret hash")
        return Authentication("secret")

    def _translate(self, webhook: Any, proof: Authentication) -> Sequence[Event[Any]]:
        type_ = webhook.get("type") or webhook["event"]
        data = webhook["data"]
        if type_.startswith("charge."):
            reference = data.get("tx_ref") or data["reference"]
            return [self.notification(reference, data["status"], proof)]
        id_ = webhook.get("id") or derived_id(self.source, type_, str(data["id"]), data["status"])
        status = data["status"].lower()
        signed = proof.trust == "signature"  # v3's plain secret says nothing of the body
        if signed and type_.startswith("transfer.") and status in _TRANSFERS:
            return [
                self.event(
                    _TRANSFERS[status],
                    _transfer(data),
                    id_=id_,
                    subject=str(data["id"]),
                    proof=proof,
                )
            ]
        return [self.passthrough_event(type_, webhook, id_=id_, proof=proof)]

    @property
    def can_be_polled(self) -> bool:
        return bool(self.options.secret_key.get_secret_value())

    async def poll(self, http: httpx.AsyncClient, query: PaymentQuery) -> PaymentStatusResult:
        """https://developer.flutterwave.com/v3.0/reference/verify-transaction-with-tx_ref and, of
        further attempts, https://developer.flutterwave.com/docs/collecting-payments/standard"""
        try:
            answer = await request_json(
                http,
                "GET",
                join_url(self.options.base_url, "transactions", "verify_by_reference"),
                params={"tx_ref": query.reference},
                headers=self._headers(),
            )
        except ProviderRejected as error:
            if "no transaction was found" not in str(error).lower():
                raise
            answer = None  # a page that nobody has used is no transaction yet
        if answer is None:
            return PaymentStatusResult(PaymentStatus.UNKNOWN)
        pollable.require_same_payment(query, answer["data"]["tx_ref"])
        found = _answer(answer["data"])
        if found.status is not PaymentStatus.SUCCEEDED:
            # Who failed, or did not confirm, may try again on the same page (`max_retry_attempt`),
            # and it is not said which attempt this call shows.
            paid = await self.charges(http, query)
            return min(paid, key=_when, default=found)
        return found

    async def charges(
        self, http: httpx.AsyncClient, query: PaymentQuery
    ) -> Sequence[PaymentStatusResult]:
        """https://developer.flutterwave.com/v3.0/reference/get-multiple-transactions"""
        listed = await request_json(
            http,
            "GET",
            join_url(self.options.base_url, "transactions"),
            params={"tx_ref": query.reference, "status": "successful"},
            headers=self._headers(),
        )
        if listed is None:
            raise Upstream("answers 404 to a list of transactions")
        mine = [each for each in listed["data"] if each["tx_ref"] == query.reference]
        answers = [_answer(each) for each in mine]
        return [each for each in answers if each.status is PaymentStatus.SUCCEEDED]

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.options.secret_key.get_secret_value()}"}


def _when(charge: PaymentStatusResult) -> tuple[datetime, str]:
    return charge.at or datetime.max.replace(tzinfo=UTC), charge.charge or ""


def _answer(charge: Object) -> PaymentStatusResult:
    """`created_at` is when the payer began to pay: of when it was confirmed v3 says nothing."""
    customer = charge.get("customer") or {}
    return PaymentStatusResult(
        # Of a word that is not known nothing follows, and it is asked again.
        _STANDINGS.get(charge["status"].lower(), PaymentStatus.PENDING),
        amount=minor_units(str(charge["amount"]), charge["currency"]),
        currency=charge["currency"],
        references=pollable.non_empty_texts(charge.get("flw_ref"), charge["id"]),
        contact=pollable.contact_of(customer.get("email"), customer.get("name")),
        reason=charge.get("processor_response"),
        at=timestamps.said(charge.get("created_at")),
        charge=str(charge["id"]),
    )


_STANDINGS = {
    "pending": PaymentStatus.PENDING,
    "successful": PaymentStatus.SUCCEEDED,
    "failed": PaymentStatus.FAILED,
}


def _transfer(data: Object) -> TransferReported:
    amount, currency = data["amount"], data["currency"]
    if isinstance(amount, dict):  # v4: {"value": 50, "currency": "NGN"}
        amount, currency = amount["value"], amount["currency"]
    return TransferReported(
        provider="flutterwave",
        transfer_id=str(data["id"]),
        reference=data.get("reference"),
        amount=minor_units(Decimal(str(amount)), currency),
        currency=currency,
        reason=data.get("complete_message") or None,
    )

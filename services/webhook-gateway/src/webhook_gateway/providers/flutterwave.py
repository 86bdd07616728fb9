"""Flutterwave, v3 and v4.

v3 (https://developer.flutterwave.com/v3.0/docs/webhooks): the header `verif-hash` is the secret
hash itself. v4 (https://developer.flutterwave.com/docs/webhooks): `flutterwave-signature` is the
base64 HMAC-SHA256 of the body. Both require a transaction to be verified before value is given for
it, so charges are unverified notifications under either scheme.
"""

from __future__ import annotations

import json
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
# Whatever its status, which is the one before it.
_REVERSAL = "transfer.reversal"


class Options(base.Options):
    """`secret_key` is v3's, for its API. Without it notifications cannot be confirmed."""

    secret_key: SecretStr = SecretStr("")
    base_url: HttpUrl = HttpUrl("https://api.flutterwave.com/v3")


class Flutterwave(PollableProvider):
    name = "flutterwave"
    options_model = Options
    options: Options
    charges_again = True  # a page can be paid again; every charge carries its `tx_ref`

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
        if "data" not in webhook and "event.type" in webhook:
            return self._translate_flat(webhook, proof)
        type_ = webhook.get("type") or webhook["event"]
        data = webhook["data"]
        if type_.startswith("charge."):
            reference = data.get("tx_ref") or data["reference"]
            return [self.notification(reference, data["status"], proof)]
        status = str(data.get("status") or "").lower()
        if type_ == _REVERSAL:
            status = "reversed"
        id_ = webhook.get("id") or webhook.get("webhook_id") or self._derived_id(type_, webhook)
        signed = proof.trust == "signature"  # v3's plain secret does not authenticate the body
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

    def _translate_flat(self, webhook: Object, proof: Authentication) -> Sequence[Event[Any]]:
        """Translate the older form, which accounts still receive for mobile money: the fields of
        `data` are those of the call, and in camel case.
        https://github.com/Flutterwave/Node-v3/issues/175"""
        type_ = str(webhook["event.type"])
        if reference := webhook.get("txRef"):
            return [self.notification(reference, webhook["status"], proof)]
        id_ = self._derived_id(type_, webhook)
        return [self.passthrough_event(type_, dict(webhook), id_=id_, proof=proof)]

    def _derived_id(self, type_: str, webhook: Object) -> str:
        data = webhook.get("data") or {}
        if "id" in data and "status" in data:
            return derived_id(self.source, type_, str(data["id"]), data["status"])
        return derived_id(self.source, type_, json.dumps(webhook, sort_keys=True))

    @property
    def can_be_polled(self) -> bool:
        return bool(self.options.secret_key.get_secret_value())

    async def poll(self, http: httpx.AsyncClient, query: PaymentQuery) -> PaymentStatusResult:
        """Query the payment:
        https://developer.flutterwave.com/v3.0/reference/verify-transaction-with-tx_ref and, for
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
            answer = None  # an unused page has no transaction yet
        if answer is None:
            return PaymentStatusResult(PaymentStatus.UNKNOWN)
        pollable.require_same_payment(query, answer["data"]["tx_ref"])
        found = _answer(answer["data"])
        if found.status is not PaymentStatus.SUCCEEDED:
            # A payer whose attempt failed, or was not confirmed, may try again on the same page
            # (`max_retry_attempt`), and the API does not say which attempt this call returns.
            paid = await self.charges(http, query)
            return min(paid, key=_when, default=found)
        return found

    async def charges(
        self, http: httpx.AsyncClient, query: PaymentQuery
    ) -> Sequence[PaymentStatusResult]:
        """Query successful charges:
        https://developer.flutterwave.com/v3.0/reference/get-multiple-transactions"""
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
    """Return the result of one charge. Its time is `created_at`, when the payer began to pay: v3
    does not report when the charge was confirmed."""
    customer = charge.get("customer") or {}
    return PaymentStatusResult(
        # An unknown status proves nothing: the payment is polled again.
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
    said = data.get("provider_response") or {}
    return TransferReported(
        provider="flutterwave",
        transfer_id=str(data["id"]),
        reference=data.get("reference"),
        reason=data.get("complete_message") or said.get("message") or None,
        **_amount(data),
    )


def _amount(data: Object) -> dict[str, Any]:
    """Return amount and currency; nothing if it is not said of which of two currencies the amount
    is. In v4, the amount may be an object, and the transfer has a source and a destination
    currency: https://developer.flutterwave.com/docs/webhooks"""
    amount, currency = data["amount"], data.get("currency")
    if isinstance(amount, dict):
        amount, currency = amount["value"], amount.get("currency") or currency
    if currency is None and data["source_currency"] == data["destination_currency"]:
        currency = data["source_currency"]
    if currency is None:
        return {}
    return {"amount": minor_units(Decimal(str(amount)), currency), "currency": currency}

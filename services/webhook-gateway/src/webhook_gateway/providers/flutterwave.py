"""Flutterwave, v3 and v4.

v3 (https://developer.flutterwave.com/v3.0/docs/webhooks): the header `verif-hash` is the secret
hash itself. v4 (https://developer.flutterwave.com/docs/webhooks): `flutterwave-signature` is the
base64 HMAC-SHA256 of the body. Both ask to verify a transaction before giving value for it, so
charges are hints whatever the scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from starlette.datastructures import Headers

from common.contracts.event import Event, derived_id
from common.contracts.money import minor_units
from common.contracts.payouts import TransferReported
from webhook_gateway.providers import Object, Proof, Provider
from webhook_gateway.providers.authentic import base64_hmac, check_any, the_header

_TRANSFERS = {
    "successful": "transfer.succeeded",
    "succeeded": "transfer.succeeded",
    "failed": "transfer.failed",
    "reversed": "transfer.reversed",
}


class Flutterwave(Provider):
    name = "flutterwave"

    async def verify(self, headers: Headers, body: bytes) -> Proof:
        if "flutterwave-signature" in headers:
            given = the_header(headers, "flutterwave-signature")
            check_any(given, self.secrets, lambda s: base64_hmac(s, body), what="the signature")
            return Proof("signature")
        given = the_header(headers, "verif-hash")
        check_any(given, self.secrets, lambda secret: secret, what="the secret hash")
        return Proof("secret")

    def _events(self, webhook: Any, proof: Proof) -> Sequence[Event[Any]]:
        type_ = webhook.get("type") or webhook["event"]
        data = webhook["data"]
        if type_.startswith("charge."):
            reference = data.get("tx_ref") or data["reference"]
            return [self.hint(reference, data["status"].lower(), proof)]
        id_ = webhook.get("id") or derived_id(self.source, type_, str(data["id"]), data["status"])
        status = data["status"].lower()
        if type_.startswith("transfer.") and status in _TRANSFERS:
            return [
                self.event(
                    _TRANSFERS[status],
                    _transfer(data),
                    id_=id_,
                    subject=str(data["id"]),
                    proof=proof,
                )
            ]
        return [self.untranslated(type_, webhook, id_=id_)]


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

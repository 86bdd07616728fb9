"""Dwolla.

https://developers.dwolla.com/docs/validating-webhooks: `X-Request-Signature-SHA-256` is the hex
HMAC-SHA256 of the body. `id` is the event's, which a retry repeats; the body only links to the
transfer, so amounts have to be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers

from common.contracts.event import Event
from common.contracts.payouts import TransferReported
from webhook_gateway.providers import Proof, Provider
from webhook_gateway.providers.authentic import check_any, hex_hmac, the_header
from webhook_gateway.times import parse

# https://developers.dwolla.com/docs/webhook-events; the same with `customer_` in front.
_TOPICS = {
    "transfer_created": "transfer.created",
    "transfer_completed": "transfer.succeeded",
    "transfer_failed": "transfer.failed",
    "transfer_cancelled": "transfer.failed",
    "transfer_reclaimed": "transfer.reversed",
    "bank_transfer_created": "provider_payout.created",
    "bank_transfer_completed": "provider_payout.succeeded",
    "bank_transfer_failed": "provider_payout.failed",
    "bank_transfer_cancelled": "provider_payout.failed",
    "bank_transfer_creation_failed": "provider_payout.failed",
}


class Dwolla(Provider):
    name = "dwolla"

    async def verify(self, headers: Headers, body: bytes) -> Proof:
        given = the_header(headers, "x-request-signature-sha-256")
        check_any(given, self.secrets, lambda s: hex_hmac(s, body), what="the signature")
        return Proof("signature")

    def _events(self, webhook: Any, proof: Proof) -> Sequence[Event[Any]]:
        topic: str = webhook["topic"]
        time = parse(webhook["timestamp"])
        type_ = _TOPICS.get(topic.removeprefix("customer_"))
        if type_ is None:
            return [self.untranslated(topic, webhook, id_=webhook["id"], proof=proof, time=time)]
        links = webhook["_links"]
        report = TransferReported(
            provider="dwolla",
            transfer_id=webhook["resourceId"],
            account=(links.get("customer") or links["account"])["href"],
            reason=topic if type_.endswith(".failed") else None,
        )
        return [
            self.event(
                type_,
                report,
                id_=webhook["id"],
                subject=webhook["resourceId"],
                proof=proof,
                time=time,
            )
        ]

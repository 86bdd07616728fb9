"""Dwolla.

https://developers.dwolla.com/docs/validating-webhooks: `X-Request-Signature-SHA-256` is the hex
HMAC-SHA256 of the body. `id` is the event's id, which a retry repeats. The body only links to the
transfer, so amounts have to be queried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers

from common.contracts.event import Event
from common.contracts.payouts import TransferReported
from webhook_gateway.providers.base import Authentication, Provider
from webhook_gateway.providers.signatures import hex_hmac, require_single_header, verify_any_secret
from webhook_gateway.providers.timestamps import parse

# https://developers.dwolla.com/docs/webhook-events; topics with the prefix `customer_` are
# translated alike.
_TOPICS = {
    "transfer_created": "provider_transfer.created",
    "transfer_completed": "provider_transfer.succeeded",
    "transfer_failed": "provider_transfer.failed",
    "transfer_cancelled": "provider_transfer.failed",
    "transfer_reclaimed": "provider_transfer.reversed",
    "bank_transfer_created": "provider_payout.created",
    "bank_transfer_completed": "provider_payout.succeeded",
    "bank_transfer_failed": "provider_payout.failed",
    "bank_transfer_cancelled": "provider_payout.failed",
    "bank_transfer_creation_failed": "provider_payout.failed",
}


class Dwolla(Provider):
    name = "dwolla"

    async def verify(self, headers: Headers, body: bytes) -> Authentication:
        given = require_single_header(headers, "x-request-signature-sha-256")
        verify_any_secret(given, self.secrets, lambda s: hex_hmac(s, body), what="the signature")
        return Authentication("signature")

    def _translate(self, webhook: Any, proof: Authentication) -> Sequence[Event[Any]]:
        topic: str = webhook["topic"]
        time = parse(webhook.get("timestamp") or webhook["created"])  # described is the latter
        type_ = _TOPICS.get(topic.removeprefix("customer_"))
        if type_ is None:
            return [
                self.passthrough_event(topic, webhook, id_=webhook["id"], proof=proof, time=time)
            ]
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

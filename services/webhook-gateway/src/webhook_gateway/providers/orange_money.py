"""Orange Money Web Payment.

https://developer.orange.com/apis/om-webpay: a notification carries the `notif_token` that the
payment's creation returned. Only whoever created the payment knows it, so it is hashed before it
goes anywhere, and the worker compares the hash with the one it keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers

from common.contracts.event import Event
from webhook_gateway.providers import Proof, Provider, digest


class OrangeMoney(Provider):
    name = "orange-money"
    needs_secret = False

    async def verify(self, headers: Headers, body: bytes) -> Proof:
        return Proof("none")

    def _events(self, webhook: Any, proof: Proof) -> Sequence[Event[Any]]:
        reference = digest(webhook["notif_token"].encode())
        return [self.hint(reference, webhook["status"].lower(), proof)]

"""MTN MoMo, collections.

https://momodeveloper.mtn.com/api-documentation/callback: sent once, by PUT or POST, with no
authentication at all. The body has the status of the payment but not its reference id, so Paybus
sends the reference as `externalId` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from starlette.datastructures import Headers

from common.contracts.event import Event
from webhook_gateway.providers import Proof, Provider


class MtnMomo(Provider):
    name = "mtn-momo"
    methods = frozenset({"POST", "PUT"})
    needs_secret = False

    async def verify(self, headers: Headers, body: bytes) -> Proof:
        return Proof("none")

    def _events(self, webhook: Any, proof: Proof) -> Sequence[Event[Any]]:
        reference = str(UUID(webhook.get("referenceId") or webhook["externalId"]))
        return [self.hint(reference, webhook["status"].lower(), proof)]

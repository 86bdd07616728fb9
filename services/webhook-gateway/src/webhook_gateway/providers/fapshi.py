"""Fapshi: mobile money in Cameroon.

https://docs.fapshi.com/en/api-reference/endpoint/webhook: the header `x-wh-secret` is the secret
itself, and a call is sent once only. The body is not signed, so it is a hint: Fapshi's own examples
ask for the payment's status before they believe it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers

from common.contracts.event import Event
from webhook_gateway.providers import Proof, Provider
from webhook_gateway.providers.authentic import check_any, the_header


class Fapshi(Provider):
    name = "fapshi"

    async def verify(self, headers: Headers, body: bytes) -> Proof:
        given = the_header(headers, "x-wh-secret")
        check_any(given, self.secrets, lambda secret: secret, what="the secret")
        return Proof("secret")

    def _events(self, webhook: Any, proof: Proof) -> Sequence[Event[Any]]:
        if isinstance(webhook, list):  # as the documentation once showed it
            (webhook,) = webhook
        return [self.hint(webhook["transId"], webhook["status"].lower(), proof)]

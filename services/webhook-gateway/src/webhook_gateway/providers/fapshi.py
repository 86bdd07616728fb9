"""Fapshi: mobile money in Cameroon.

https://docs.fapshi.com/en/api-reference/endpoint/webhook: the header `x-wh-secret` is the secret
itself, and a call is sent once only. The body is not signed, so it is a hint: Fapshi's own examples
ask for the payment's status before they believe it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import httpx
from pydantic import HttpUrl, SecretStr
from starlette.datastructures import Headers

from common.contracts.event import Event
from common.contracts.money import minor_units
from common.contracts.payouts import TransferReported
from common.outside import call, url
from webhook_gateway import asking, providers, times
from webhook_gateway.asking import Answer, AskedProvider, Question
from webhook_gateway.domain import Standing
from webhook_gateway.providers import Proof
from webhook_gateway.providers.authentic import check_any, the_header


class Options(providers.Options):
    """The API's credentials. Without them hints can't be asked about.

    A service of Fapshi's that pays out takes no payments: `pays_out` says that this is one, and
    its payouts are asked about by the payouts service.
    """

    pays_out: bool = False

    api_user: str = ""
    api_key: SecretStr = SecretStr("")
    base_url: HttpUrl = HttpUrl("https://live.fapshi.com")


class Fapshi(AskedProvider):
    name = "fapshi"
    options_model = Options
    options: Options

    async def verify(self, headers: Headers, body: bytes) -> Proof:
        given = the_header(headers, "x-wh-secret")
        check_any(given, self.secrets, lambda secret: secret, what="the secret")
        return Proof("secret")

    def _events(self, webhook: Any, proof: Proof) -> Sequence[Event[Any]]:
        webhook = _one(webhook)
        if self.options.pays_out:
            return [self._payout_hint(webhook, proof)]
        return [self.hint(webhook["transId"], webhook["status"], proof)]

    def _payout_hint(self, webhook: Any, proof: Proof) -> Event[Any]:
        """Each is news, as with payments. The payouts service writes the payout's id and the
        recipient's into `externalId`."""
        reference, _, _ = (webhook.get("externalId") or "").partition("_")
        report = TransferReported(
            provider=self.name,
            transfer_id=webhook["transId"],
            reference=reference or None,
        )
        return self.event(
            "provider_payout.reported",
            report,
            id_=str(uuid4()),
            subject=webhook["transId"],
            proof=proof,
        )

    @property
    def can_be_asked(self) -> bool:
        return bool(self.options.api_user and self.options.api_key.get_secret_value())

    async def ask(self, http: httpx.AsyncClient, question: Question) -> Answer:
        """https://docs.fapshi.com/en/api-reference/endpoint/payment-status"""
        payment = await call(
            http,
            "GET",
            url(self.options.base_url, "payment-status", question.reference),
            headers={
                "apiuser": self.options.api_user,
                "apikey": self.options.api_key.get_secret_value(),
            },
        )
        if payment is None:
            return Answer(Standing.UNKNOWN)
        payment = _one(payment)
        asking.expect(question, payment["transId"])
        return Answer(
            _STANDINGS[payment["status"]],
            amount=minor_units(str(payment["amount"]), "XAF"),
            currency="XAF",
            references=asking.texts(payment.get("externalId")),
            contact=asking.contact(payment.get("email"), payment.get("payerName")),
            reason=payment.get("reason"),
            at=times.said(payment.get("dateConfirmed")),
        )


def _one(said: Any) -> Any:
    """Status and webhook are documented as an array of one, and as an object."""
    if isinstance(said, list):
        (said,) = said
    return said


_STANDINGS = {
    "CREATED": Standing.PENDING,
    "PENDING": Standing.PENDING,
    "SUCCESSFUL": Standing.SUCCEEDED,
    "FAILED": Standing.FAILED,
    "EXPIRED": Standing.EXPIRED,
}

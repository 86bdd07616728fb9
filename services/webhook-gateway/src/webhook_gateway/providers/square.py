"""Square.

https://developer.squareup.com/docs/webhooks/step3validate: `x-square-hmacsha256-signature` is the
base64 HMAC-SHA256 of the notification URL followed by the body. The URL is the one registered at
Square, byte for byte, so it is an option of the endpoint and never guessed from the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field
from starlette.datastructures import Headers

from common.contracts.event import Event, Payload
from common.contracts.payments import (
    Contact,
    DisputeStatus,
    PaymentDisputed,
    PaymentOutcome,
    PaymentRefunded,
)
from common.contracts.payouts import TransferReported
from webhook_gateway.providers import base
from webhook_gateway.providers.base import Authentication, Object, Provider
from webhook_gateway.providers.signatures import (
    base64_hmac,
    require_single_header,
    verify_any_secret,
)
from webhook_gateway.providers.timestamps import parse

_PAYMENTS: Mapping[str, str] = {
    "COMPLETED": "payment.succeeded",
    "FAILED": "payment.failed",
    "CANCELED": "payment.failed",
}
_PAYOUTS: Mapping[str, str] = {
    "SENT": "provider_payout.created",
    "PAID": "provider_payout.succeeded",
    "FAILED": "provider_payout.failed",
}


class Options(base.Options):
    notification_url: str = Field(pattern=r"^https?://")


class Square(Provider):
    name = "square"
    options_model = Options
    options: Options

    async def verify(self, headers: Headers, body: bytes) -> Authentication:
        given = require_single_header(headers, "x-square-hmacsha256-signature")
        url = self.options.notification_url.encode()
        verify_any_secret(
            given, self.secrets, lambda s: base64_hmac(s, url, body), what="the signature"
        )
        return Authentication("signature")

    def _translate(self, webhook: Any, proof: Authentication) -> Sequence[Event[Any]]:
        # Deletions, and some other types, name an object and do not contain it.
        found = _translate(webhook["type"], webhook["data"].get("object") or {})
        if not found:
            time = parse(webhook["created_at"])
            return [
                self.passthrough_event(
                    webhook["type"], webhook, id_=webhook["event_id"], proof=proof, time=time
                )
            ]
        return [
            self.event(
                type_,
                payload,
                # One call may report two changes, each as a separate event.
                id_=webhook["event_id"] if number == 0 else f"{webhook['event_id']}/{number}",
                subject=webhook["data"]["id"],
                proof=proof,
                time=parse(webhook["created_at"]),
            )
            for number, (type_, payload) in enumerate(found)
        ]


def _translate(type_: str, thing: Object) -> list[tuple[str, Payload]]:
    if type_ in {"payment.created", "payment.updated"}:
        return _payment(thing["payment"])
    if type_ in {"dispute.created", "dispute.state.changed", "dispute.state.updated"}:
        return [("payment.disputed", _dispute(thing["dispute"]))]
    if type_.startswith("payout.") and (payout := thing["payout"])["status"] in _PAYOUTS:
        return [(_PAYOUTS[payout["status"]], _payout(payout))]
    return []


def _payment(payment: Object) -> list[tuple[str, Payload]]:
    found: list[tuple[str, Payload]] = []
    references = sorted(filter(None, {payment.get("order_id"), payment.get("reference_id")}))
    if payment["status"] in _PAYMENTS:
        errors = payment.get("card_details", {}).get("errors") or [{}]
        report = PaymentOutcome(
            provider="square",
            payment_id=payment["id"],
            references=references,
            customer_id=payment.get("customer_id"),
            contact=Contact(email=payment.get("buyer_email_address")),
            **_money(payment.get("total_money") or payment["amount_money"]),
            reason=errors[0].get("code"),
        )
        found.append((_PAYMENTS[payment["status"]], report))
    # The total refunded so far, which a refund's own events lack.
    if refunded := payment.get("refunded_money"):
        refund = PaymentRefunded(
            provider="square",
            refund_of=payment["id"],
            payment_id=payment["id"],
            references=[payment["id"]],  # an order may have several payments
            amount_refunded=_money(refunded)["amount"],
            currency=_money(refunded)["currency"],
        )
        found.append(("payment.refunded", refund))
    return found


def _dispute(dispute: Object) -> PaymentDisputed:
    return PaymentDisputed(
        provider="square",
        dispute_id=dispute["dispute_id"] if "dispute_id" in dispute else dispute["id"],
        payment_id=dispute["disputed_payment"]["payment_id"],
        references=[dispute["disputed_payment"]["payment_id"]],
        **_money(dispute["amount_money"]),
        reason=dispute["reason"],
        status=_dispute_status(dispute.get("state") or ""),
    )


def _dispute_status(state: str) -> DisputeStatus:
    """https://developer.squareup.com/reference/square/objects/Dispute, `state`"""
    if state.startswith("INQUIRY_"):
        return "inquiry"
    over: Mapping[str, DisputeStatus] = {"WON": "won", "LOST": "lost", "ACCEPTED": "lost"}
    return over.get(state, "open")


def _payout(payout: Object) -> TransferReported:
    """Report a payout. Its amount is negative where Square debits the seller's bank:
    https://developer.squareup.com/docs/payouts-api/overview."""
    return TransferReported(
        provider="square",
        transfer_id=payout["id"],
        account=payout.get("location_id"),
        reference=payout.get("end_to_end_id"),
        **_money(payout["amount_money"]),
    )


def _money(money: Object) -> dict[str, Any]:
    """Return amount and currency. Payments total the tip, too (`total_money`); the examples of
    payouts in Square's API description name the currency `currency_code`:
    https://developer.squareup.com/reference/square/payouts-api/webhooks/payout.sent"""
    currency = money["currency"] if "currency" in money else money["currency_code"]
    return {"amount": money["amount"], "currency": currency}

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
        # Square's SDK requires hardly any field; what says too little is journaled as it is.
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
        return _payment(thing.get("payment") or {})
    if type_ in {"dispute.created", "dispute.state.changed", "dispute.state.updated"}:
        return _dispute(thing.get("dispute") or {})
    return _payout(thing.get("payout") or {}) if type_.startswith("payout.") else []


def _payment(payment: Object) -> list[tuple[str, Payload]]:
    found: list[tuple[str, Payload]] = []
    id_ = payment.get("id")
    if id_ is None:
        return found
    references = sorted(filter(None, {payment.get("order_id"), payment.get("reference_id")}))
    type_ = _PAYMENTS.get(payment.get("status") or "")
    paid = _money(payment.get("total_money")) or _money(payment.get("amount_money"))
    if type_ is not None and paid is not None:
        errors = (payment.get("card_details") or {}).get("errors") or [{}]
        report = PaymentOutcome(
            provider="square",
            payment_id=id_,
            references=references,
            customer_id=payment.get("customer_id"),
            contact=Contact(email=payment.get("buyer_email_address")),
            **paid,
            reason=errors[0].get("code"),
        )
        found.append((type_, report))
    # The total refunded so far, which a refund's own events lack.
    if (refunded := _money(payment.get("refunded_money"))) is not None:
        refund = PaymentRefunded(
            provider="square",
            refund_of=id_,
            payment_id=id_,
            references=[id_],  # an order may have several payments
            amount_refunded=refunded["amount"],
            currency=refunded["currency"],
        )
        found.append(("payment.refunded", refund))
    return found


def _dispute(dispute: Object) -> list[tuple[str, Payload]]:
    id_ = dispute.get("dispute_id") or dispute.get("id")
    payment = (dispute.get("disputed_payment") or {}).get("payment_id")
    disputed = _money(dispute.get("amount_money"))
    if id_ is None or payment is None or disputed is None:
        return []
    report = PaymentDisputed(
        provider="square",
        dispute_id=id_,
        payment_id=payment,
        references=[payment],
        **disputed,
        reason=dispute.get("reason") or "UNKNOWN",
        status=_dispute_status(dispute.get("state") or ""),
    )
    return [("payment.disputed", report)]


def _dispute_status(state: str) -> DisputeStatus:
    """https://developer.squareup.com/reference/square/objects/Dispute, `state`"""
    if state.startswith("INQUIRY_"):
        return "inquiry"
    over: Mapping[str, DisputeStatus] = {"WON": "won", "LOST": "lost", "ACCEPTED": "lost"}
    return over.get(state, "open")


def _payout(payout: Object) -> list[tuple[str, Payload]]:
    """Report a payout. Its amount is negative where Square debits the seller's bank:
    https://developer.squareup.com/docs/payouts-api/overview."""
    type_, amount = _PAYOUTS.get(payout.get("status") or ""), _money(payout.get("amount_money"))
    if type_ is None or amount is None:
        return []
    report = TransferReported(
        provider="square",
        transfer_id=payout["id"],
        account=payout.get("location_id"),
        reference=payout.get("end_to_end_id"),
        **amount,
    )
    return [(type_, report)]


def _money(money: Object | None) -> dict[str, Any] | None:
    """Return amount and currency, if both are there. Payments total the tip, too (`total_money`);
    the examples of payouts in Square's API description name the currency `currency_code`:
    https://developer.squareup.com/reference/square/payouts-api/webhooks/payout.sent"""
    money = money or {}
    amount, currency = money.get("amount"), money.get("currency") or money.get("currency_code")
    if amount is None or currency is None:
        return None
    return {"amount": amount, "currency": currency}

"""Events of payments that localstripe lacks: charges, what links an invoice to its payment intent,
refunds and disputes.

`PUT /_config/refunds/{id}/failed`: the payer's bank rejected the refund, and the money is back.
`PUT /_config/charges/{id}/dispute` with `{"status": "needs_response"}` begins a dispute of the
charge, or continues it; its statuses: https://docs.stripe.com/api/disputes/object
"""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web
from localstripe.resources import Charge, Event, Invoice, PaymentIntent, Refund, StripeObject
from localstripe.server import json_response
from localstripe.webhooks import schedule_webhook

_MOVES_MONEY = {"needs_response": "funds_withdrawn", "won": "funds_reinstated"}
_CLOSED = {"won", "lost", "warning_closed"}


class InvoicePayment(StripeObject):  # type: ignore[misc]
    """The object of https://docs.stripe.com/api/invoice-payment/object"""

    object = "invoice_payment"
    _id_prefix = "inpay_"

    def __init__(self, intent: Any) -> None:
        super().__init__()
        self.amount_paid = self.amount_requested = intent.amount
        self.currency = intent.currency
        self.invoice = intent.invoice
        self.is_default = True
        self.payment = {"type": "payment_intent", "payment_intent": intent.id}
        self.status = "paid"
        self.status_transitions = {"canceled_at": None, "paid_at": int(time.time())}


class Dispute(StripeObject):  # type: ignore[misc]
    """The object of https://docs.stripe.com/api/disputes/object, without its evidence."""

    object = "dispute"
    _id_prefix = "du_"

    def __init__(self, charge: Any, amount: int) -> None:
        super().__init__()
        self.amount = amount
        self.balance_transactions: list[Any] = []
        self.charge, self.payment_intent = charge.id, charge.payment_intent
        self.currency = charge.currency
        self.enhanced_eligibility_types: list[Any] = []
        self.evidence: dict[str, Any] = {"enhanced_evidence": {}}
        self.evidence_details: dict[str, Any] = {
            "due_by": None,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        }
        self.is_charge_refundable = False
        self.metadata: dict[str, str] = {}
        self.reason = "fraudulent"
        self.status = "needs_response"


def install(app: web.Application) -> None:
    disputes: dict[str, Any] = {}
    _teach()

    async def fail_refund(request: web.Request) -> Any:
        refund = Refund._api_retrieve(request.match_info["id"])
        refund.status, refund.failure_reason = "failed", "expired_or_canceled_card"
        for each in ("refund.updated", "refund.failed", "charge.refund.updated"):
            schedule_webhook(Event(each, refund))
        return json_response(refund._export())

    async def dispute(request: web.Request) -> Any:
        wanted = await request.json()
        charge = Charge._api_retrieve(request.match_info["id"])
        known = disputes.get(charge.id)
        found = known or Dispute(charge, wanted.get("amount", charge.amount))
        disputes[charge.id] = found
        found.status = wanted["status"]
        is_closed = found.status in _CLOSED
        events = ["created" if known is None else "closed" if is_closed else "updated"]
        if found.status in _MOVES_MONEY:
            events.append(_MOVES_MONEY[found.status])
        for each in events:
            schedule_webhook(Event(f"charge.dispute.{each}", found))
        return json_response(found._export())

    app.router.add_put("/_config/refunds/{id}/failed", fail_refund)
    app.router.add_put("/_config/charges/{id}/dispute", dispute)


def _teach() -> None:
    begin_refund, succeed = Refund.__init__, PaymentIntent._on_success

    def give_back(self: Any, **wanted: Any) -> None:
        begin_refund(self, **wanted)
        schedule_webhook(Event("charge.refunded", Charge._api_retrieve(self.charge)))

    def be_paid(self: Any) -> None:
        schedule_webhook(Event("charge.succeeded", self.latest_charge))
        succeed(self)
        if self.invoice:
            schedule_webhook(Event("invoice.paid", Invoice._api_retrieve(self.invoice)))
            schedule_webhook(Event("invoice_payment.paid", InvoicePayment(self)))

    def amount_refunded(self: Any) -> int:
        """https://docs.stripe.com/refunds: a failed refund is no longer part of the total."""
        return sum(each.amount for each in self.refunds._list if each.status != "failed")

    Refund.__init__, PaymentIntent._on_success = give_back, be_paid
    Charge.amount_refunded = property(amount_refunded)

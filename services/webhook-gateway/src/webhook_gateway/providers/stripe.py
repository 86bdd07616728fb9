"""Stripe: snapshot events, and thin events, which name an object without its content.

Signature: https://docs.stripe.com/webhooks#verify-manually

Objects: https://docs.stripe.com/api, before and since version 2025-03-31.basil, which moved a
subscription's period to its items and an invoice's subscription under `parent`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import stripe
from pydantic import Field, HttpUrl, SecretStr
from starlette.datastructures import Headers

from common.clients.stripe import from_stripe
from common.contracts.event import Event, Payload
from common.contracts.payments import (
    OUR_METADATA,
    REFUND_IN_METADATA,
    CheckoutCompleted,
    Contact,
    DisputeStatus,
    PaymentDisputed,
    PaymentLinked,
    PaymentOutcome,
    PaymentRefunded,
    RefundReported,
)
from common.contracts.payouts import TransferReported
from common.contracts.subscriptions import (
    PlanSnapshot,
    PreviousSubscription,
    ProviderCustomer,
    ProviderSubscription,
    Status,
    SubscriptionItem,
)
from webhook_gateway import metrics
from webhook_gateway.providers import base
from webhook_gateway.providers.base import Authentication, Object, Provider, VerificationFailed
from webhook_gateway.providers.signatures import require_single_header
from webhook_gateway.providers.timestamps import from_seconds, parse

TOLERANCE_SECONDS = 300

_MALFORMED = "the Stripe-Signature header is not of the form t=...,v1=..."

_SIGNED = Authentication("signature")


class Options(base.Options):
    """`api_key` reads the event list; a restricted key that can read events suffices. Without it,
    events that Stripe could not deliver are not recovered.

    The endpoint serves the events of its own account, and of the connected `accounts` listed, in
    one `mode`: by default that of the key, and `live` without a key. Of other connected accounts it
    serves only payouts, which are money that we paid them.
    """

    api_key: SecretStr = SecretStr("")
    base_url: HttpUrl = HttpUrl("https://api.stripe.com")
    accounts: frozenset[Annotated[str, Field(pattern=r"^acct_\w{1,60}$")]] = frozenset()
    mode: Literal["live", "test"] | None = None

    @property
    def is_live(self) -> bool:
        if self.mode is not None:
            return self.mode == "live"
        return not re.match(r"[sr]k_test_", self.api_key.get_secret_value())


class Stripe(Provider):
    name = "stripe"
    options_model = Options
    options: Options

    async def verify(self, headers: Headers, body: bytes) -> Authentication:
        header = require_single_header(headers, "stripe-signature")
        if not header.isascii():  # the SDK's constant-time comparison accepts only ASCII
            raise VerificationFailed(_MALFORMED)
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise VerificationFailed("the body is not UTF-8, as Stripe's always is") from None
        refusal = "no secret is configured"
        for secret in self.secrets:
            try:
                stripe.WebhookSignature.verify_header(text, header, secret, TOLERANCE_SECONDS)
            except stripe.SignatureVerificationError as error:
                refusal = _reason(error)
            else:
                _refuse_future(header)
                return _SIGNED
        raise VerificationFailed(refusal)

    def _translate(self, webhook: Any, proof: Authentication) -> Sequence[Event[Any]]:
        provider_type: str = webhook["type"]
        if webhook.get("object") == "v2.core.event":  # thin: no object content
            time = parse(webhook["created"])
            return [
                self.passthrough_event(
                    provider_type, webhook, id_=webhook["id"], proof=proof, time=time
                )
            ]
        time = from_seconds(webhook["created"])
        not_served = self._not_served(webhook)
        if not _is_translated(provider_type, webhook) or not_served is not None:
            return [
                self.passthrough_event(
                    provider_type,
                    webhook,
                    id_=webhook["id"],
                    proof=proof,
                    time=time,
                    not_served=not_served if provider_type in _TRANSLATIONS else None,
                )
            ]
        snapshot: Object = webhook["data"]["object"]
        domain_type, translation = _TRANSLATIONS[provider_type]
        payload = translation(snapshot)
        if isinstance(payload, ProviderSubscription):
            changed = webhook["data"].get("previous_attributes") or _IMPLIED.get(provider_type)
            payload = payload.model_copy(update={"previous": _previous(snapshot, changed)})
            if "metadata" in (webhook["data"].get("previous_attributes") or {}):
                payload = payload.model_copy(update={"metadata_as_of": time})
        if provider_type == "customer.updated":
            removed = _removed(snapshot, webhook["data"].get("previous_attributes") or {})
            payload = payload.model_copy(update={"removed": removed})
        if webhook.get("account"):
            payload = _without_our_ids(payload)
        return [
            self.event(
                domain_type,
                payload,
                id_=webhook["id"],
                subject=snapshot.get("id") or webhook["id"],
                proof=proof,
                time=time,
            )
        ]

    def _not_served(self, webhook: Object) -> str | None:
        """Return why the event has no effect, or None. `account` is the event's connected account,
        `livemode` whether it is in live mode (https://docs.stripe.com/connect/webhooks): a live
        Connect endpoint receives test events, too."""
        kind = None
        account, live = webhook.get("account"), webhook.get("livemode")
        if isinstance(live, bool) and live is not self.options.is_live:
            kind = "mode"
            said = f"it is in {'live' if live else 'test'} mode, which the endpoint does not serve"
        elif account and account not in self.options.accounts and not _is_payout(webhook):
            kind = "account"
            said = (
                f"it belongs to the connected account {account}, which the endpoint does not serve"
            )
        if kind is None:
            return None
        if webhook["type"] in _TRANSLATIONS:
            metrics.not_served.labels(self.name, kind).inc()
        return said


def _is_translated(type_: str, webhook: Object) -> bool:
    """Return whether the event means something here. A session in mode `setup` stores a payment
    method: no payment is made or missed (https://docs.stripe.com/api/checkout/sessions/object). A
    `customer_account` may stand for the customer (SDK `Subscription`, `Invoice`). A charge that is
    not captured is only authorized (https://docs.stripe.com/api/charges/object, `captured`)."""
    if type_ not in _TRANSLATIONS:
        return False
    snapshot: Object = webhook["data"]["object"]
    if type_.startswith("checkout."):
        return snapshot.get("mode") in {"payment", "subscription"}
    if type_ in {"charge.succeeded", "charge.refunded"}:  # the latter when it is released
        return snapshot.get("captured") is not False
    if type_ == "invoice.finalized":
        return snapshot.get("customer") is not None
    is_subscription = type_.startswith("customer.subscription.")
    return not is_subscription or snapshot.get("customer", "missing") is not None


def _is_payout(webhook: Object) -> bool:
    return str(webhook["type"]).startswith("payout.")


def _refuse_future(header: str) -> None:
    """Raise `VerificationFailed` for a timestamp in the future: the SDK rejects only old ones."""
    stamps = [part.split("=", 2)[1] for part in header.split(",") if part.startswith("t=")]
    if int(stamps[0]) > time.time() + TOLERANCE_SECONDS:
        raise VerificationFailed(
            f"the signature's timestamp is more than {TOLERANCE_SECONDS} s in the future"
        )


def _reason(error: stripe.SignatureVerificationError) -> str:
    # Match the SDK's messages by their beginnings; the error object itself carries header and body.
    text = str(error)
    if text.startswith("No Stripe-Signature"):
        return "the Stripe-Signature header is missing"
    if text.startswith("Timestamp outside"):
        return f"the signature is more than {TOLERANCE_SECONDS} s old"
    if text.startswith(("Unable to extract", "No signatures found with expected scheme")):
        return _MALFORMED
    return "the signature does not match the body and any configured secret"


def _checkout(session: Object) -> CheckoutCompleted:
    details = session.get("customer_details") or {}
    return CheckoutCompleted(
        provider="stripe",
        checkout_id=session["id"],
        payment_id=_id(session.get("payment_intent")),
        mode=session["mode"],
        paid=session["payment_status"] in {"paid", "no_payment_required"},
        customer_id=_id(session.get("customer")),
        contact=Contact(
            email=details.get("email") or session.get("customer_email"), name=details.get("name")
        ),
        subscription_id=_id(session.get("subscription")),
        amount=_amount(session, "amount_total"),
        currency=_currency(session.get("currency")),
        client_reference=session.get("client_reference_id"),
        metadata=_metadata(session),
    )


def _unpaid_checkout(session: Object) -> PaymentOutcome:
    """Report a page that was not completed, or whose slow payment failed. The session stands for
    the payment unless it names one, and contains less about the customer than its creator knows."""
    return PaymentOutcome(
        provider="stripe",
        payment_id=_id(session.get("payment_intent")) or session["id"],
        references=[session["id"]],
        customer_id=None,
        amount=_amount(session, "amount_total") or 0,
        currency=(session.get("currency") or "usd").upper(),
    )


def _invoice(amount: str) -> Callable[[Object], PaymentOutcome]:
    """Return an invoice's translation. `amount` names the field with this attempt's amount."""

    def translate(invoice: Object) -> PaymentOutcome:
        parent = (invoice.get("parent") or {}).get("subscription_details") or {}
        references = [_id(invoice.get("payment_intent")), _id(invoice.get("charge"))]
        for payment in (invoice.get("payments") or {}).get("data", []):
            references.append(_id(payment["payment"].get("payment_intent")))
            references.append(_id(payment["payment"].get("charge")))
        failure = invoice.get("last_finalization_error") or {}
        return PaymentOutcome(
            provider="stripe",
            payment_id=invoice["id"],
            references=sorted({each for each in references if each}),
            customer_id=_id(invoice.get("customer")),
            contact=Contact(email=invoice.get("customer_email"), name=invoice.get("customer_name")),
            contact_as_of=_finalized_at(invoice),
            subscription_id=_id(invoice.get("subscription") or parent.get("subscription")),
            amount=_required_amount(invoice, _paid_as_due(invoice) or amount),
            currency=invoice["currency"].upper(),
            reason=failure.get("message"),
        )

    return translate


def _finalized_at(invoice: Object) -> datetime | None:
    """Return when the customer's data was copied into the invoice:
    https://docs.stripe.com/api/invoices/object#invoice_object-customer_email"""
    at = (invoice.get("status_transitions") or {}).get("finalized_at")
    return from_seconds(at) if at else None


def _paid_as_due(invoice: Object) -> str | None:
    """Return the field with a paid invoice's amount if part of it, or all, was paid outside of
    Stripe: `amount_paid` may lack that part. https://docs.stripe.com/api/invoices/object,
    `amount_paid_off_stripe` and, before 2025-03-31, `paid_out_of_band`"""
    outside = invoice.get("paid_out_of_band") or invoice.get("amount_paid_off_stripe")
    return "amount_due" if outside and invoice.get("status") == "paid" else None


def _intent(amount: str) -> Callable[[Object], PaymentOutcome]:
    """Return a payment intent's translation. `amount` names the field with the amount, which is
    what was captured once it succeeded: https://docs.stripe.com/api/payment_intents/object"""

    def translate(intent: Object) -> PaymentOutcome:
        failure = intent.get("last_payment_error") or {}
        references = {intent["id"], _id(intent.get("latest_charge"))}
        for charge in (intent.get("charges") or {}).get("data", []):  # before API 2022-11-15
            references.add(charge["id"])
        return PaymentOutcome(
            provider="stripe",
            payment_id=intent["id"],
            references=sorted(each for each in references if each),
            customer_id=_id(intent.get("customer")),
            amount=_required_amount(intent, amount),
            currency=intent["currency"].upper(),
            reason=failure.get("message") or intent.get("cancellation_reason"),
        )

    return translate


def _charge(amount: str) -> Callable[[Object], PaymentOutcome]:
    """Return a charge's translation. It is the payment itself if no payment intent made it."""

    def translate(charge: Object) -> PaymentOutcome:
        captured = amount if charge.get(amount) is not None else "amount"
        intent = _id(charge.get("payment_intent"))
        return PaymentOutcome(
            provider="stripe",
            payment_id=intent or charge["id"],
            references=sorted(each for each in {charge["id"], intent} if each),
            customer_id=_id(charge.get("customer")),
            amount=_required_amount(charge, captured),
            currency=charge["currency"].upper(),
            reason=charge.get("failure_message"),
        )

    return translate


def _customer(customer: Object) -> ProviderCustomer:
    return ProviderCustomer(
        provider="stripe",
        customer_id=customer["id"],
        contact=Contact(email=customer.get("email"), name=customer.get("name")),
    )


def _removed(customer: Object, previous: Object) -> list[str]:
    """Return which contact data a change removed. A customer without any may have given it on a
    checkout page. https://docs.stripe.com/api/events/object#event_object-data-previous_attributes"""
    return [each for each in ("email", "name") if previous.get(each) and not customer.get(each)]


def _invoiced_customer(invoice: Object) -> ProviderCustomer:
    """Report the customer's contact data, which a finalized invoice repeats: an invoiced customer
    may pay weeks later. https://docs.stripe.com/api/invoices/object#invoice_object-customer_email"""
    return ProviderCustomer(
        provider="stripe",
        customer_id=_required_id(invoice["customer"]),
        contact=Contact(email=invoice.get("customer_email"), name=invoice.get("customer_name")),
    )


def _subscription(ended: bool) -> Callable[[Object], ProviderSubscription]:
    def translate(subscription: Object) -> ProviderSubscription:
        items = _items(subscription)
        plans = [plan for plan, _ in items]
        ends = subscription.get("current_period_end")
        ends_at = [item.current_period_end for _, item in items if item.current_period_end]
        return ProviderSubscription(
            provider="stripe",
            subscription_id=subscription["id"],
            customer_id=_required_id(subscription["customer"]),
            status=Status.CANCELLED if ended else _STATUS[subscription["status"]],
            plan=plans[0] if plans else _plan(subscription.get("plan")),
            more_plans=plans[1:],
            items=[item for _, item in items],
            current_period_end=from_seconds(ends) if ends else max(ends_at, default=None),
            cancel_at_period_end=bool(subscription.get("cancel_at_period_end")),
            cancel_at=from_seconds(at) if (at := subscription.get("cancel_at")) else None,
            trialing=subscription["status"] == "trialing",
            # https://docs.stripe.com/billing/subscriptions/pause-payment: the status stays.
            collection_paused=subscription.get("pause_collection") is not None,
            metadata=_metadata(subscription),
            metadata_as_of=from_seconds(at) if (at := subscription.get("created")) else None,
        )

    return translate


def _items(subscription: Object) -> list[tuple[PlanSnapshot, SubscriptionItem]]:
    """Return the items with their plans. Each has its own plan, quantity and, since API 2025-03-31,
    period (https://docs.stripe.com/api/subscription_items/object)."""
    found = []
    for item in (subscription.get("items") or {}).get("data") or ():
        plan = _plan(item.get("price") or item.get("plan"))
        if plan is None:
            continue
        ends = item.get("current_period_end")
        described = SubscriptionItem(
            plan_id=plan.plan_id,
            quantity=item.get("quantity"),
            current_period_end=from_seconds(ends) if ends else None,
        )
        found.append((plan, described))
    return found


def _without_our_ids(payload: Payload) -> Payload:
    """Remove our ids from the payload of a connected account. Its holder sets the metadata of its
    own objects, so our ids in it prove nothing: https://docs.stripe.com/api/metadata"""
    if isinstance(payload, TransferReported | RefundReported):
        return payload.model_copy(update={"reference": None})
    if isinstance(payload, CheckoutCompleted | ProviderSubscription):
        kept = {k: v for k, v in payload.metadata.items() if not k.startswith(OUR_METADATA)}
        return payload.model_copy(update={"metadata": kept})
    return payload


def _previous(snapshot: Object, changed: Object | None) -> PreviousSubscription | None:
    """Return the subscription before a change. `previous_attributes` has the former values of the
    changed attributes, arrays in full
    (https://docs.stripe.com/api/events/object#event_object-data)."""
    if not changed:
        return None
    before = _subscription(ended=False)(_merged(snapshot, changed))
    return PreviousSubscription(
        status=before.status,
        plan_id=before.plan.plan_id if before.plan else None,
        items=before.items,
        current_period_end=before.current_period_end,
        cancel_at_period_end=before.cancel_at_period_end,
        cancel_at=before.cancel_at,
        trialing=before.trialing,
        collection_paused=before.collection_paused,
    )


# Previous values implied by the event type: these types mean only a change to or from the status
# `paused` (https://docs.stripe.com/api/events/types#event_types-customer.subscription.paused).
_IMPLIED: Mapping[str, Object] = {
    "customer.subscription.paused": {"status": "trialing"},
    "customer.subscription.resumed": {"status": "paused"},
}


def _merged(now: Object, changed: Object) -> Object:
    merged = dict(now)
    for key, value in changed.items():
        there = merged.get(key)
        nested = isinstance(value, Mapping) and isinstance(there, Mapping)
        merged[key] = _merged(there or {}, value) if nested else value
    return merged


def _plan(price: Object | None) -> PlanSnapshot | None:
    if not price:
        return None
    former = "unit_amount" not in price  # a plan, the predecessor of a price
    recurring = price if former else price.get("recurring") or {}
    return PlanSnapshot(
        plan_id=price["id"],
        name=price.get("nickname") or (price.get("name") if former else None),
        amount=_price_amount(price, "amount" if former else "unit_amount"),
        currency=_currency(price.get("currency")),
        interval=recurring.get("interval"),
        interval_count=recurring.get("interval_count") or 1,
    )


def _refund(charge: Object) -> PaymentRefunded:
    references = {charge["id"], _id(charge.get("payment_intent")), _id(charge.get("invoice"))}
    return PaymentRefunded(
        provider="stripe",
        refund_of=charge["id"],
        payment_id=_id(charge.get("payment_intent")) or charge["id"],
        references=sorted(each for each in references if each),
        amount_refunded=from_stripe(_given_back(charge), charge["currency"].upper()),
        currency=charge["currency"].upper(),
    )


def _given_back(charge: Object) -> int:
    """Return what was refunded, in Stripe's units: of a charge that was captured in part,
    `amount_refunded` contains the rest, which was only reserved.
    https://docs.stripe.com/api/charges/capture: the remaining amount is automatically refunded"""
    refunded: int = charge["amount_refunded"]
    if charge.get("amount_captured") is None or charge.get("amount") is None:
        return refunded
    reserved: int = charge["amount"] - charge["amount_captured"]
    return max(0, refunded - reserved)


def _refund_report(refund: Object) -> RefundReported:
    """Report a refund. It may fail, or be canceled, after it succeeded:
    https://docs.stripe.com/refunds (failed refunds). The three event types that report it have the
    same object."""
    status = refund.get("status") or "pending"
    over = {"succeeded": "succeeded", "failed": "failed", "canceled": "failed"}
    references = {_id(refund.get("charge")), _id(refund.get("payment_intent"))}
    return RefundReported(
        provider="stripe",
        refund_id=refund["id"],
        refund_of=_id(refund.get("charge")),
        payment_id=_id(refund.get("payment_intent")) or _id(refund.get("charge")),
        created_at=from_seconds(at) if (at := refund.get("created")) else None,
        reference=_metadata(refund).get(REFUND_IN_METADATA),
        references=sorted(each for each in references if each),
        status=over.get(status, "pending"),
        amount=_required_amount(refund, "amount"),
        currency=refund["currency"].upper(),
        reason=refund.get("failure_reason") or (status if status == "canceled" else None),
    )


# A payout to a bank has no other field for our reference.
PAYOUT_IN_METADATA = "paybus_payout"


def _transfer(transfer: Object) -> TransferReported:
    reference = transfer.get("transfer_group") or _metadata(transfer).get(PAYOUT_IN_METADATA)
    returned = _amount(transfer, "amount_reversed") or None
    return _sent(transfer, reference=reference, amount_returned=returned)


def _payout(payout: Object) -> TransferReported:
    reference = _metadata(payout).get(PAYOUT_IN_METADATA)
    return _sent(payout, reference=reference, reason=payout.get("failure_message"))


def _sent(thing: Object, **more: Any) -> TransferReported:
    return TransferReported(
        provider="stripe",
        transfer_id=thing["id"],
        account=_id(thing.get("destination")),
        amount=_required_amount(thing, "amount"),
        currency=thing["currency"].upper(),
        **more,
    )


def _dispute(dispute: Object) -> PaymentDisputed:
    references = {_id(dispute.get("charge")), _id(dispute.get("payment_intent"))}
    return PaymentDisputed(
        provider="stripe",
        dispute_id=dispute["id"],
        payment_id=_id(dispute.get("payment_intent")) or _id(dispute.get("charge")),
        references=sorted(each for each in references if each),
        amount=_required_amount(dispute, "amount"),
        currency=dispute["currency"].upper(),
        reason=dispute["reason"],
        status=_dispute_status(dispute.get("status") or ""),
    )


def _dispute_status(status: str) -> DisputeStatus:
    """https://docs.stripe.com/api/disputes/object#dispute_object-status"""
    if status.startswith("warning_"):
        return "inquiry"
    # The description does not say what `prevented` means: assumed is that the money stays.
    over: Mapping[str, DisputeStatus] = {"won": "won", "prevented": "won", "lost": "lost"}
    return over.get(status, "open")


def _invoice_payment(payment: Object) -> PaymentLinked:
    """Link an invoice to what paid it: since 2025-03-31 neither names the other.
    https://docs.stripe.com/api/invoice-payment/object"""
    paid_by = payment["payment"]
    references = {_id(paid_by.get("payment_intent")), _id(paid_by.get("charge"))}
    return PaymentLinked(
        provider="stripe",
        payment_id=_required_id(payment["invoice"]),
        references=sorted(each for each in references if each),
    )


# https://docs.stripe.com/api/subscriptions/object#subscription_object-status
_STATUS: Mapping[str, Status] = {
    "incomplete": Status.INCOMPLETE,
    "incomplete_expired": Status.EXPIRED,
    "trialing": Status.ACTIVE,
    "active": Status.ACTIVE,
    "past_due": Status.PAST_DUE,
    "unpaid": Status.UNPAID,
    "paused": Status.PAUSED,
    "canceled": Status.CANCELLED,
}

# Stripe sends both `invoice.paid` and `invoice.payment_succeeded` for a payment; both name the same
# invoice, so the second one changes nothing.
_TRANSLATIONS: Mapping[str, tuple[str, Callable[[Object], Payload]]] = {
    "checkout.session.completed": ("checkout.completed", _checkout),
    "checkout.session.async_payment_succeeded": ("checkout.completed", _checkout),
    "checkout.session.async_payment_failed": ("payment.failed", _unpaid_checkout),
    "checkout.session.expired": ("payment.expired", _unpaid_checkout),
    "invoice.paid": ("payment.succeeded", _invoice("amount_paid")),
    "invoice.payment_succeeded": ("payment.succeeded", _invoice("amount_paid")),
    "invoice.payment_failed": ("payment.failed", _invoice("amount_due")),
    "payment_intent.succeeded": ("payment.succeeded", _intent("amount_received")),
    "payment_intent.payment_failed": ("payment.failed", _intent("amount")),
    "payment_intent.canceled": ("payment.failed", _intent("amount")),
    "charge.succeeded": ("payment.succeeded", _charge("amount_captured")),
    "charge.captured": ("payment.succeeded", _charge("amount_captured")),
    "charge.failed": ("payment.failed", _charge("amount")),
    "invoice_payment.paid": ("payment.linked", _invoice_payment),
    "invoice.finalized": ("provider_customer.updated", _invoiced_customer),
    "customer.created": ("provider_customer.updated", _customer),
    "customer.updated": ("provider_customer.updated", _customer),
    "customer.deleted": ("provider_customer.deleted", _customer),
    "customer.subscription.created": ("provider_subscription.created", _subscription(ended=False)),
    "customer.subscription.updated": ("provider_subscription.updated", _subscription(ended=False)),
    "customer.subscription.paused": ("provider_subscription.updated", _subscription(ended=False)),
    "customer.subscription.resumed": ("provider_subscription.updated", _subscription(ended=False)),
    "customer.subscription.deleted": ("provider_subscription.deleted", _subscription(ended=True)),
    "charge.refunded": ("payment.refunded", _refund),
    "refund.updated": ("refund.reported", _refund_report),
    "refund.failed": ("refund.reported", _refund_report),
    "charge.refund.updated": ("refund.reported", _refund_report),
    "charge.dispute.created": ("payment.disputed", _dispute),
    "charge.dispute.updated": ("payment.disputed", _dispute),
    "charge.dispute.closed": ("payment.disputed", _dispute),
    "charge.dispute.funds_withdrawn": ("payment.disputed", _dispute),
    "charge.dispute.funds_reinstated": ("payment.disputed", _dispute),
    "transfer.created": ("provider_transfer.created", _transfer),
    "transfer.reversed": ("provider_transfer.reversed", _transfer),
    "payout.created": ("provider_payout.created", _payout),
    "payout.paid": ("provider_payout.succeeded", _payout),
    "payout.failed": ("provider_payout.failed", _payout),
    "payout.canceled": ("provider_payout.failed", _payout),
}

TRANSLATED_TYPES = frozenset(_TRANSLATIONS)
"""The types to select for a webhook endpoint at Stripe."""


def _id(reference: Any) -> str | None:
    """Return an object's id, whether Stripe sent the id or the expanded object."""
    if isinstance(reference, Mapping):
        return _required_id(reference)
    return reference or None


def _required_id(reference: Any) -> str:
    return str(reference["id"]) if isinstance(reference, Mapping) else str(reference)


def _metadata(thing: Object) -> dict[str, str]:
    return {str(key): str(value) for key, value in (thing.get("metadata") or {}).items()}


def _amount(thing: Object, field: str) -> int | None:
    """Return the amount in minor units of the object's currency."""
    amount, currency = thing.get(field), _currency(thing.get("currency"))
    return amount if amount is None or currency is None else from_stripe(amount, currency)


def _price_amount(price: Object, field: str) -> int | None:
    """Return the price's amount; None for tiered prices, and for fractions of a minor unit, which
    some prices in ISK still have.
    https://support.stripe.com/questions/deprecation-of-fractional-isk-charges-and-refunds"""
    try:
        return _amount(price, field)
    except ValueError:
        return None


def _required_amount(thing: Object, field: str) -> int:
    return from_stripe(thing[field], thing["currency"].upper())


def _currency(code: str | None) -> str | None:
    return code.upper() if code else None

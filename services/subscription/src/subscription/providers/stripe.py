"""Stripe Checkout through the official SDK. https://docs.stripe.com/api/checkout/sessions/create"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pydantic import Field, HttpUrl, SecretStr

from common.clients.stripe import (
    API,
    check_amount,
    from_stripe,
    stripe_answers,
    stripe_client,
    to_stripe,
    with_key,
)
from common.contracts.payments import REFUND_IN_METADATA
from common.errors import Invalid, ProviderRejected, Upstream
from subscription.models import CHECKOUT_IN_METADATA
from subscription.providers import base
from subscription.providers.base import (
    CheckoutClient,
    CheckoutRequest,
    RefundRequest,
    RefundResult,
    StartedCheckout,
    require_field,
)
from subscription.providers.stripe_billing import StripeBilling
from subscription.schemas.checkout import NewCheckout


class Options(base.Options):
    """Options of an account. `api_key` needs write access to Checkout Sessions and, where they are
    used, to Refunds, Customers, Payment Methods and the resources of Billing. `payment_methods` are
    the Stripe types that customers may pay with.

    Configure only types that are paid immediately: with a bank debit, Stripe activates a
    subscription before it is paid, and leaves it active when the debit fails.
    https://docs.stripe.com/billing/subscriptions/overview#subscription-statuses
    """

    api_key: SecretStr
    base_url: HttpUrl = API
    payment_methods: tuple[str, ...] = Field(default=("card",), min_length=1)


class Stripe(CheckoutClient):
    options_model = Options
    options: Options
    lifetime = timedelta(hours=24)

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        super().__init__(options, http)
        self._client = stripe_client(options.api_key, options.base_url, timeout=http.timeout)
        self.billing = StripeBilling(self._client, options.payment_methods)

    def check(self, request: NewCheckout) -> None:
        require_field(request, request.return_url, "return_url")
        if request.amount is not None and request.currency is not None:
            check_amount(request.amount, request.currency)

    def reference(self, checkout_id: str, attempt: int) -> str:
        """Return Stripe's idempotency key: its first result, even a 500, is repeated for a day."""
        return f"{checkout_id}.{attempt}"

    async def start(self, order: CheckoutRequest) -> StartedCheckout:
        with stripe_answers():
            session = await self._client.v1.checkout.sessions.create_async(
                self._session(order), options={"idempotency_key": order.reference}
            )
        if session.amount_total is None or session.currency is None:
            raise Upstream("created a session without a price")
        currency = session.currency.upper()
        return StartedCheckout(
            session.id,
            session.url,
            datetime.fromtimestamp(session.expires_at, UTC),
            from_stripe(session.amount_total, currency),
            currency,
        )

    async def refund(self, request: RefundRequest) -> RefundResult | None:
        """Refund a payment: https://docs.stripe.com/api/refunds/create"""
        try:
            check_amount(request.amount, request.currency)
        except Invalid as error:
            raise ProviderRejected(str(error).removeprefix("stripe "), 400) from error
        with stripe_answers():
            session = await self._client.v1.checkout.sessions.retrieve_async(request.checkout)
            intent = session.payment_intent
            if intent is None:
                raise ProviderRejected("has no payment for this session", 404)
            name = intent if isinstance(intent, str) else intent.id
            # The response to an earlier attempt may have been lost.
            known = await self._client.v1.refunds.list_async({"payment_intent": name, "limit": 100})
            async for refund in known.auto_paging_iter():
                if refund.status in {"failed", "canceled"} and request.attempt > 1:
                    continue  # an earlier attempt, which refunded nothing
                if (refund.to_dict().get("metadata") or {}).get(REFUND_IN_METADATA) == request.id:
                    return _returned(refund)
        with with_key():
            made = await self._client.v1.refunds.create_async(
                {
                    "payment_intent": name,
                    "amount": to_stripe(request.amount, request.currency),
                    "metadata": {REFUND_IN_METADATA: request.id},
                },
                options={"idempotency_key": f"{request.id}.{request.attempt}"},
            )
        return _returned(made)

    def _session(self, order: CheckoutRequest) -> Any:
        request = order.request
        back = str(request.return_url)
        session: dict[str, Any] = {
            "client_reference_id": order.id,
            "success_url": back,
            "cancel_url": back,
            "payment_method_types": list(self.options.payment_methods),
            "metadata": {CHECKOUT_IN_METADATA: order.id},
        }
        if request.customer.email is not None:
            session["customer_email"] = request.customer.email
        if request.plan is not None:
            price: dict[str, Any] = {"price": request.plan.plan_id}
            about = {"email": request.customer.email, "name": request.customer.name}
            metadata = {key: value for key, value in about.items() if value is not None}
            session |= {"mode": "subscription", "subscription_data": {"metadata": metadata}}
        else:
            product = {"name": order.label}
            amount = to_stripe(order.amount, order.currency)
            money = {"currency": order.currency.lower(), "unit_amount": amount}
            price = {"price_data": money | {"product_data": product}}
            session |= {"mode": "payment"}
        return session | {"line_items": [price | {"quantity": 1}]}


def _returned(refund: Any) -> RefundResult:
    # A refund under way counts as made; Stripe's dashboard shows its outcome, and `take_report`
    # applies a failure.
    accepted = refund.status in {"succeeded", "pending", "requires_action"}
    reason = None if accepted else f"{refund.status}: {getattr(refund, 'failure_reason', None)}"
    return RefundResult(refund.id, accepted, reason)

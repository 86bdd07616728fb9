"""Start of a checkout: store the intent, call the provider, store the response.

The row with its idempotency key is committed before the provider is called, and no transaction is
open during the call. A repeated request continues where the last attempt ended; of two concurrent
requests, both return the payment that was stored first.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.clients.json_api import excerpt
from common.contracts.event import derived_id
from common.contracts.payments import CheckoutStarted
from common.db.database import Sessions
from common.errors import Conflict, Invalid, ProviderRejected, RateLimited, Upstream
from common.http.return_urls import check_return_url
from common.messaging import outbox
from common.messaging.events import new_event
from common.observability.logging import get_logger
from common.observability.redaction import Redactor
from common.resilience.call_guard import CallGuard
from subscription import metrics, models, repository
from subscription.checkouts.payers import Payers
from subscription.checkouts.status import CheckoutStatus
from subscription.domain import SOURCE
from subscription.models import OURS, Checkout, row_id
from subscription.providers.base import CheckoutClient, CheckoutRequest, StartedCheckout
from subscription.providers.registry import Accounts
from subscription.schemas.checkout import NewCheckout

log = get_logger(__name__)

_AGAIN = "send the same request with the same Idempotency-Key again"


class CheckoutService:
    """Service that starts checkouts. `timeout` is the limit for a provider's response (seconds)."""

    def __init__(
        self,
        sessions: Sessions,
        accounts: Accounts,
        payers: Payers,
        *,
        timeout: float,
        redact: Redactor,
    ) -> None:
        self._sessions = sessions
        self._payers = payers
        self._accounts = accounts
        self._timeout = timeout
        self._redact = redact

    async def start(self, tenant: str, key: str, request: NewCheckout) -> Checkout:
        """Start the checkout, or continue with the one of the same key. Raise `Invalid`; `Conflict`
        if the key was used for another request; `ProviderRejected`; and `Upstream` or `RateLimited`
        if the same request may be sent again."""
        known = await self._known(tenant, key, request)
        if known is not None and known.status != CheckoutStatus.STARTING:
            return _answer(known)
        try:
            client = self._accounts.find(tenant, request)
            client.check(request)
            # Not part of the request's model, which also reads accepted requests from the database.
            check_return_url(request.return_url)
        except Invalid as error:
            if known is None or known.reference is None:
                raise
            raise Upstream(
                f"the payer may already have been prompted; correct this, then {_AGAIN}: {error}"
            ) from error
        gate = self._accounts.gate(tenant, request)
        async with AsyncExitStack() as place:
            try:
                # Before the attempt is recorded: an attempt that is not made reached no payer.
                await place.enter_async_context(gate.admit())
            except RateLimited as error:
                raise RateLimited(f"{error}; {_AGAIN}", error.retry_after) from error
            checkout, order = await self._intend(client, tenant, key, request)
            if order is None:
                return _answer(checkout)
            try:
                started, payload = await self._call_provider(client, gate, order)
            except ProviderRejected as error:
                return _answer(await self._refuse(client, order, error))
        return _answer(await self._record(order, started, payload))

    async def _known(self, tenant: str, key: str, request: NewCheckout) -> Checkout | None:
        async with self._sessions() as session:
            checkout = await repository.checkout(session, _id(tenant, key))
        if checkout is not None:
            self._check_same(checkout, request)
        return checkout

    async def _intend(
        self, client: CheckoutClient, tenant: str, key: str, request: NewCheckout
    ) -> tuple[Checkout, CheckoutRequest | None]:
        """Return the checkout, and the request to send now, if any."""
        async with self._sessions.begin() as session:
            checkout = await repository.intend_checkout(session, self._row(tenant, key, request))
            self._check_same(checkout, request)
            if checkout.status != CheckoutStatus.STARTING:
                return checkout, None
            checkout.attempts += 1
            name = checkout.reference or client.reference(checkout.id, checkout.attempts)
            order = CheckoutRequest(checkout.id, name, request)
            if client.pushes_to_payer:  # on every attempt: each restarts the payer's time
                started = client.started_checkout(order, name, None)
                await _announce(session, checkout, started, _payload(order, started))
        return checkout, order

    async def _call_provider(
        self, client: CheckoutClient, gate: CallGuard, order: CheckoutRequest
    ) -> tuple[StartedCheckout, CheckoutStarted]:
        provider = order.request.provider
        try:
            async with asyncio.timeout(self._timeout), gate.call():
                started = await client.start(order)
            return started, _payload(order, started)
        except ProviderRejected as error:
            raise ProviderRejected(self._masked(f"{provider} {error}"), error.status) from error
        except RateLimited as error:
            raise RateLimited(f"{provider} {error}: {_AGAIN}", error.retry_after) from error
        except Upstream as error:
            raise Upstream(f"{self._masked(f'{provider} {error}')}; {_AGAIN}") from error
        except TimeoutError as error:
            raise Upstream(
                f"{provider} did not respond within {self._timeout:g} s; {_AGAIN}"
            ) from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            log.warning("provider_response_invalid", provider=provider, error=type(error).__name__)
            raise Upstream(f"{provider} returned an unexpected response; {_AGAIN}") from error

    def _check_same(self, checkout: Checkout, request: NewCheckout) -> None:
        if self._payers.request(checkout) != request:
            raise Conflict("this Idempotency-Key was used for another request")

    def _row(self, tenant: str, key: str, request: NewCheckout) -> dict[str, Any]:
        ours = request.provider != "stripe"  # Stripe reports the customer itself
        customer, subscription = request.customer.reference, models.our_subscription(request)
        return {
            "id": _id(tenant, key),
            "tenant": tenant,
            "provider": request.provider,
            "account": request.account,
            "idempotency_key": key,
            **self._payers.columns(request),
            "status": CheckoutStatus.STARTING,
            "amount": request.amount,
            "currency": request.currency,
            "customer_id": row_id(models.Customer, tenant, OURS, customer) if ours else None,
            "subscription_id": row_id(models.Subscription, tenant, OURS, subscription)
            if ours and subscription
            else None,
        }

    def _masked(self, text: str) -> str:
        return excerpt(text, self._redact)

    async def _refuse(
        self, client: CheckoutClient, order: CheckoutRequest, refused: ProviderRejected
    ) -> Checkout:
        async with self._sessions.begin() as session:
            checkout = await repository.locked_checkout(session, order.id)
            if checkout.status != CheckoutStatus.STARTING:
                return checkout  # another attempt already has an outcome
            checkout.error = str(refused)
            unsure = client.pushes_to_payer and checkout.attempts > 1
            if not unsure:
                checkout.status = CheckoutStatus.REFUSED
        if unsure:
            raise Upstream(f"{refused}; an earlier attempt may have reached the payer: {_AGAIN}")
        metrics.checkouts.labels(order.request.provider, CheckoutStatus.REFUSED).inc()
        return checkout

    async def _record(
        self, order: CheckoutRequest, started: StartedCheckout, payload: CheckoutStarted
    ) -> Checkout:
        async with self._sessions.begin() as session:
            checkout = await repository.locked_checkout(session, order.id)
            if checkout.status not in {CheckoutStatus.STARTING, CheckoutStatus.REFUSED}:
                return checkout  # another request was faster, or the payer was
            checkout.status = CheckoutStatus.PENDING
            checkout.error = None
            await _announce(session, checkout, started, payload)
        metrics.checkouts.labels(order.request.provider, CheckoutStatus.PENDING).inc()
        return checkout


def _id(tenant: str, key: str) -> str:
    return derived_id(models.Checkout.__tablename__, tenant, key)


def _answer(checkout: Checkout) -> Checkout:
    if checkout.status == CheckoutStatus.REFUSED:
        raise ProviderRejected(checkout.error or "refused", 0)
    return checkout


def _payload(order: CheckoutRequest, started: StartedCheckout) -> CheckoutStarted:
    """Return the payload of `checkout.started`. Raise `ValidationError` for impossible values."""
    return CheckoutStarted(
        provider=order.request.provider,
        endpoint=order.request.account,
        reference=started.reference,
        checkout_id=order.id,
        amount=started.amount,
        currency=started.currency,
        expires_at=started.expires_at,
        notification_reference=started.notification_reference,
        lookup=dict(started.lookup),
    )


async def _announce(
    session: AsyncSession, checkout: Checkout, started: StartedCheckout, payload: CheckoutStarted
) -> None:
    checkout.reference = started.reference
    checkout.url = started.url
    checkout.expires_at = started.expires_at
    if checkout.provider == "stripe":
        checkout.amount, checkout.currency = started.amount, started.currency
    # A later attempt at the same payment is a new event: it may be payable for longer.
    id_ = derived_id(
        "checkout.started", checkout.id, started.reference, started.expires_at.isoformat()
    )
    event = new_event(
        id=id_,
        source=SOURCE,
        type="checkout.started",
        subject=checkout.id,
        tenant=checkout.tenant,
        correlationid=checkout.id,
        data=payload,
    )
    await outbox.enqueue(session, [event])

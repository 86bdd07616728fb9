"""Starting a checkout: write it down, ask the provider, write down the answer.

The row with its idempotency key is committed before the provider is called, and no transaction is
open meanwhile. Whoever sends the same request again continues where the last attempt ended; of two
at once both are given the payment that was written down first.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event, derived_id
from common.contracts.payments import CheckoutStarted
from common.database import Sessions
from common.errors import Conflict, RateLimited, Upstream
from common.logs import get_logger
from common.messaging import outbox
from common.messaging.connection import describe
from common.outside import Refused
from common.redaction import Redactor
from subscription import metrics, models, repository
from subscription.accounts import Accounts
from subscription.clients import CheckoutClient, Order, Started
from subscription.models import OURS, Checkout, row_id
from subscription.outcomes import CheckoutStatus
from subscription.requests import NewCheckout

log = get_logger(__name__)

_AGAIN = "send the same request with the same Idempotency-Key again"


class Checkouts:
    """`timeout` (seconds) is how long a provider may take to answer."""

    def __init__(
        self, sessions: Sessions, accounts: Accounts, *, timeout: float, redact: Redactor
    ) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._timeout = timeout
        self._redact = redact

    async def start(self, tenant: str, key: str, wanted: NewCheckout) -> Checkout:
        """Raises `Invalid`; `Conflict` when the key was used for another request; `Refused`; and
        `Upstream` or `RateLimited` when the same request may be sent again."""
        client = self._accounts.find(tenant, wanted)
        client.check(wanted)
        checkout, order = await self._intend(client, tenant, key, wanted)
        if order is None:
            if checkout.status == CheckoutStatus.REFUSED:
                raise Refused(checkout.error or "", 0)
            return checkout
        try:
            started = await self._ask(client, order)
        except Refused as error:
            await self._refuse(order, str(error))
            raise
        return await self._record(order, started)

    async def _intend(
        self, client: CheckoutClient, tenant: str, key: str, wanted: NewCheckout
    ) -> tuple[Checkout, Order | None]:
        """The checkout, and the order that is to be sent now, if any."""
        values = _row(tenant, key, wanted)
        async with self._sessions.begin() as session:
            checkout = await repository.intend_checkout(session, values)
            if checkout.request != values["request"]:
                raise Conflict("this Idempotency-Key was used for another request")
            if checkout.status != CheckoutStatus.STARTING:
                return checkout, None
            checkout.attempts += 1
            name = checkout.reference or client.reference(checkout.id, checkout.attempts)
            order = Order(checkout.id, name, wanted)
            if client.asks_the_payer and checkout.reference is None:
                await _announce(session, checkout, client.started(order, name, None))
        return checkout, order

    async def _ask(self, client: CheckoutClient, order: Order) -> Started:
        provider = order.wanted.provider
        try:
            async with asyncio.timeout(self._timeout):
                return await client.start(order)
        except Refused as error:
            raise Refused(self._redact(f"{provider} {error}"), error.status) from error
        except RateLimited as error:
            raise RateLimited(f"{provider} {error}: {_AGAIN}", error.retry_after) from error
        except Upstream as error:
            raise Upstream(self._redact(f"{provider} {error}; {_AGAIN}")) from error
        except TimeoutError as error:
            raise Upstream(f"{provider} gave no answer in {self._timeout:g} s; {_AGAIN}") from error
        except (LookupError, TypeError, ValueError) as error:
            log.warning("a strange answer", provider=provider, error=describe(error))
            raise Upstream(f"{provider} answers something strange; {_AGAIN}") from error

    async def _refuse(self, order: Order, reason: str) -> None:
        async with self._sessions.begin() as session:
            checkout = await repository.locked_checkout(session, order.id)
            if checkout.status == CheckoutStatus.STARTING:
                checkout.status = CheckoutStatus.REFUSED
                checkout.error = reason
        metrics.checkouts.labels(order.wanted.provider, CheckoutStatus.REFUSED).inc()

    async def _record(self, order: Order, started: Started) -> Checkout:
        async with self._sessions.begin() as session:
            checkout = await repository.locked_checkout(session, order.id)
            if checkout.status != CheckoutStatus.STARTING:
                return checkout  # another request was quicker, or the payer was
            checkout.status = CheckoutStatus.PENDING
            await _announce(session, checkout, started)
        metrics.checkouts.labels(order.wanted.provider, CheckoutStatus.PENDING).inc()
        return checkout


def _row(tenant: str, key: str, wanted: NewCheckout) -> dict[str, Any]:
    ours = wanted.provider != "stripe"  # which says itself who the customer is
    customer, subscription = wanted.customer.reference, models.our_subscription(wanted)
    return {
        "id": derived_id(models.Checkout.__tablename__, tenant, key),
        "tenant": tenant,
        "provider": wanted.provider,
        "account": wanted.account,
        "idempotency_key": key,
        "request": wanted.model_dump(mode="json"),
        "status": CheckoutStatus.STARTING,
        "amount": wanted.amount,
        "currency": wanted.currency,
        "customer_id": row_id(models.Customer, tenant, OURS, customer) if ours else None,
        "subscription_id": row_id(models.Subscription, tenant, OURS, subscription)
        if ours and subscription
        else None,
    }


async def _announce(session: AsyncSession, checkout: Checkout, started: Started) -> None:
    checkout.reference = started.reference
    checkout.url = started.url
    checkout.expires_at = started.expires_at
    if checkout.provider == "stripe":
        checkout.amount, checkout.currency = started.amount, started.currency
    now = datetime.now(UTC)
    # The same for the same payment: whoever is told twice knows it.
    id_ = derived_id("checkout.started", checkout.id, started.reference)
    event = Event[CheckoutStarted](
        id=id_,
        source="/subscription",
        type="checkout.started",
        subject=checkout.id,
        time=now,
        recordedtime=now,
        tenant=checkout.tenant,
        correlationid=id_,
        trust="signature",
        data=CheckoutStarted(
            provider=checkout.provider,
            endpoint=checkout.account,
            reference=started.reference,
            checkout_id=checkout.id,
            amount=started.amount,
            currency=started.currency,
            expires_at=started.expires_at,
            hint_reference=started.hint_reference,
            lookup=dict(started.lookup),
        ),
    )
    await outbox.write(session, [event])

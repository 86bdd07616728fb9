"""Effects of payment reports on the checkouts that started the payments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.clients.accounts_file import gateway_source
from common.contracts.event import Event
from common.contracts.payments import (
    CheckoutCompleted,
    CheckoutStatusChanged,
    Contact,
    PaymentOutcome,
)
from common.contracts.subscriptions import PlanSnapshot, Status
from common.db import tenant_rows
from common.errors import Conflict
from common.messaging.outbox import UnitOfWork
from common.observability.logging import get_logger
from subscription import metrics, models, repository
from subscription.checkouts.payers import Payers
from subscription.checkouts.status import CheckoutStatus, Outcome, of_payment
from subscription.models import CHECKOUT_IN_METADATA, OURS, Checkout
from subscription.schemas.checkout import stored
from subscription.subscriptions import renewals, store

log = get_logger(__name__)

Rows = Mapping[str, dict[str, Any]]


async def lock_checkouts(
    session: AsyncSession, events: Sequence[Event[Any]], payers: Payers
) -> None:
    """Lock the checkouts that the events refer to, for `find_checkout`. `payers` is stored in the
    session for the handlers that apply payments."""
    session.info["payers"] = payers
    names = sorted({name for event in events for name in _references(event)})
    by_name: dict[tuple[str, str, str | None], Checkout] = {}
    for checkout in await repository.checkouts_named(session, names) if names else ():
        source = gateway_source(checkout.provider, checkout.account)
        for name in (checkout.id, checkout.reference):
            by_name[checkout.tenant, source, name] = checkout
    session.info["checkouts"] = by_name


def find_checkout(session: AsyncSession, event: Event[Any]) -> Checkout | None:
    """Return the checkout that the event refers to, among those of the event's account."""
    by_name: Mapping[tuple[str, str, str], Checkout] = session.info["checkouts"]
    found = (by_name.get((event.tenant, event.source, name)) for name in _references(event))
    checkout = next((each for each in found if each is not None), None)
    if checkout is None or not isinstance(event.data, CheckoutCompleted):
        return checkout
    # One Stripe session is one payment: a different session does not belong to this checkout.
    return checkout if checkout.reference in {None, event.data.checkout_id} else None


def rows_to_lock(checkout: Checkout) -> tuple[Rows, Rows]:
    """Return the customer's and the subscription's rows to lock for a checkout, by id."""
    request = stored(checkout.terms)
    owner: dict[str, Any] = {"tenant": checkout.tenant, "provider": OURS}
    customers: dict[str, dict[str, Any]] = {}
    subscriptions: dict[str, dict[str, Any]] = {}
    if checkout.customer_id is not None:
        customers[checkout.customer_id] = owner | {
            "provider_customer_id": request.customer.reference
        }
    if checkout.subscription_id is not None:
        subscriptions[checkout.subscription_id] = owner | {
            "provider_subscription_id": models.our_subscription(request),
            "customer_id": checkout.customer_id,
        }
    return customers, subscriptions


async def apply_payment(
    work: UnitOfWork,
    event: Event[Any],
    checkout: Checkout,
    paid: tuple[int, str] | None,
    payer: Contact,
) -> None:
    """Apply a payment reported by a provider. `paid` is the amount in minor units and its currency,
    None if the provider does not report the amount."""
    status = CheckoutStatus.PAID
    if paid is not None:
        # A Stripe plan has its price at Stripe: the amount that Stripe collected is right.
        request = stored(checkout.terms)
        status = of_payment(
            paid=paid[0],
            currency=paid[1],
            expected=request.amount,
            expected_currency=request.currency,
        )
        if status is CheckoutStatus.UNDERPAID and checkout.status != CheckoutStatus.PAID:
            asked = f"{request.amount} {request.currency}"
            checkout.error = f"paid {paid[0]} {paid[1]}, not {asked} (minor units)"
    came = paid or (checkout.amount, checkout.currency)
    outcome = Outcome(status, event.time, event.id)
    await apply_outcome(work, event, checkout, outcome, payer, came)


async def apply_further_charge(
    work: UnitOfWork, event: Event[PaymentOutcome], checkout: Checkout
) -> None:
    """Apply a further charge for the same checkout. It buys nothing, unless the payment before it
    was too low; the service that had the checkout started for a purpose decides about it and
    refunds it. Raise `Conflict`, to be retried, until the first charge has been received."""
    if checkout.status not in {CheckoutStatus.PAID, CheckoutStatus.UNDERPAID}:
        raise Conflict(
            f"a further charge of checkout {checkout.id} was received before the first one: "
            "replay the first one's `payment.succeeded`, then this"
        )
    report = event.data
    came = (report.amount, report.currency)
    request = stored(checkout.terms)
    was_paid, before = checkout.status == CheckoutStatus.PAID, checkout.error
    if request.purpose is not None:
        status = of_payment(
            paid=came[0],
            currency=came[1],
            expected=request.amount,
            expected_currency=request.currency,
        )
        _publish(work, event, checkout, status, came, event.time, charge=report.payment_id)
        if status is CheckoutStatus.PAID and not was_paid:
            checkout.status, checkout.paid_at, checkout.error = status, event.time, None
            await _activate_subscription(work, event, checkout, report.contact, first=True)
    elif was_paid:
        more = (
            f"paid once more by charge {report.payment_id}: refund {came[0]} {came[1]} "
            "(minor units) at the provider"
        )
        _has_to_go_back(checkout, more if before is None else f"{before}; {more}")
    else:
        await apply_payment(work, event, checkout, came, report.contact)
        if before is not None:
            now = checkout.error or "then all of it: refund the earlier payment"
            _has_to_go_back(checkout, f"{before}; {now}")


async def apply_outcome(
    work: UnitOfWork,
    event: Event[Any],
    checkout: Checkout,
    outcome: Outcome,
    payer: Contact,
    amount: tuple[int | None, str | None] = (None, None),
) -> None:
    """Apply a report to the checkout; a paid period extends the subscription. `amount` is the
    amount received, in minor units, and its currency."""
    came = outcome.status in {CheckoutStatus.PAID, CheckoutStatus.UNDERPAID}
    if checkout.status == CheckoutStatus.REFUSED and not came:
        return  # keep the reason, which an expiry lacks
    first = checkout.reported_at is None
    if checkout.reported_at is not None:
        known = Outcome(
            CheckoutStatus(checkout.status), checkout.reported_at, checkout.reported_event_id or ""
        )
        if outcome.order <= known.order:
            return
    if checkout.status != outcome.status:
        metrics.checkouts.labels(checkout.provider, outcome.status).inc()
        log.info("checkout_completed", checkout=checkout.id, outcome=outcome.status)
    if outcome.status is CheckoutStatus.UNDERPAID and stored(checkout.terms).purpose is None:
        metrics.to_return.labels(checkout.provider).inc()
        log.error(
            "payment_underpaid",
            hint="refund it at the provider",
            checkout=checkout.id,
            error=checkout.error,
        )
    before = checkout.status
    checkout.status = outcome.status
    checkout.reported_at = outcome.at
    checkout.reported_event_id = outcome.event_id
    if first or before != outcome.status:
        _publish(work, event, checkout, outcome.status, amount, outcome.at)
    if outcome.status is CheckoutStatus.PAID:
        checkout.paid_at = outcome.at
        checkout.error = None
        await _activate_subscription(
            work, event, checkout, payer, first=before != CheckoutStatus.PAID
        )


def _has_to_go_back(checkout: Checkout, why: str) -> None:
    checkout.error = why
    metrics.to_return.labels(checkout.provider).inc()
    log.error(
        "payment_to_return",
        hint=why,
        checkout=checkout.id,
        subscription=checkout.subscription_id,
    )


def _publish(
    work: UnitOfWork,
    event: Event[Any],
    checkout: Checkout,
    status: CheckoutStatus,
    amount: tuple[int | None, str | None],
    at: datetime,
    *,
    charge: str | None = None,
) -> None:
    """Publish the status to the service that had the checkout started for a purpose, if one did."""
    purpose = stored(checkout.terms).purpose
    if purpose is None:
        return
    work.emit(
        "checkout.status_changed",
        CheckoutStatusChanged(
            checkout_id=checkout.id,
            purpose=purpose,
            provider=checkout.provider,
            account=checkout.account,
            status=status.value,
            amount=amount[0],
            currency=amount[1],
            paid_at=at if amount[0] is not None else None,
            charge=charge,
        ),
        subject=checkout.id,
        cause=event,
    )


async def _activate_subscription(
    work: UnitOfWork, event: Event[Any], checkout: Checkout, payer: Contact, *, first: bool
) -> None:
    if checkout.provider == "stripe" or checkout.customer_id is None:
        return  # Stripe manages customer and subscription, and reports both
    request = stored(checkout.terms)
    payers: Payers = work.session.info["payers"]
    asked_for = payers.contact(checkout)
    contact = Contact(email=asked_for.email or payer.email, name=asked_for.name or payer.name)
    await store.update_contact(work, event, checkout.customer_id, contact)
    if request.plan is None or checkout.subscription_id is None:
        return
    plan = PlanSnapshot(
        plan_id=request.plan.plan_id,
        name=request.plan.name,
        amount=checkout.amount,
        currency=checkout.currency,
        interval=request.plan.interval,
    )
    await store.save_plan(work.session, event, OURS, plan)
    assert checkout.paid_at is not None
    row = await work.session.get_one(models.Subscription, checkout.subscription_id)
    await work.session.flush()  # the query below must find this checkout
    paid = await repository.paid_checkouts(work.session, [row.id])
    await renewals.renew(
        work, event, row, paid[row.id], await tenant_rows.database_now(work.session)
    )
    given_up = row.forfeited_until is not None and checkout.paid_at <= row.forfeited_until
    if first and (given_up or row.status == Status.CANCELLED):
        # The payment was under way during the cancellation: it buys nothing and must be refunded.
        why = "paid for a subscription that was cancelled: refund it at the provider"
        _has_to_go_back(checkout, why)


def _references(event: Event[Any]) -> list[str]:
    """Return the names by which a report may refer to a checkout: the provider's reference, or ours
    where a payer cannot have chosen it."""
    data = event.data
    if isinstance(data, CheckoutCompleted):
        return [data.checkout_id, *filter(None, [data.metadata.get(CHECKOUT_IN_METADATA)])]
    if isinstance(data, PaymentOutcome) and data.customer_id is None:
        return [data.payment_id, *data.references]
    return []

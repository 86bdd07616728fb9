"""Event handlers, one function per event type. A batch of events shares one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event
from common.contracts.payments import (
    CheckoutCompleted,
    Contact,
    PaymentDisputed,
    PaymentLinked,
    PaymentOutcome,
    PaymentRefunded,
    RefundReported,
)
from common.contracts.subscriptions import (
    PlanSnapshot,
    PreviousSubscription,
    ProviderCustomer,
    ProviderSubscription,
)
from common.db import tenant_rows
from common.errors import NotFound
from common.messaging.outbox import UnitOfWork
from common.messaging.transactional_consumer import Handler
from common.observability.logging import get_logger
from subscription import domain, metrics, models, repository
from subscription.billing import commands
from subscription.checkouts import outcomes, refunds
from subscription.checkouts.payers import Payers
from subscription.checkouts.status import CheckoutStatus, Outcome
from subscription.domain import Facts, Item, Lifecycle, PaymentReport, Snapshot
from subscription.models import row_id
from subscription.payments import store as payments
from subscription.subscriptions import store

log = get_logger(__name__)


async def on_checkout_completed(work: UnitOfWork, event: Event[CheckoutCompleted]) -> None:
    report = event.data
    checkout = outcomes.find_checkout(work.session, event)
    ours = report.metadata.get(models.CHECKOUT_IN_METADATA)
    if checkout is None and ours is not None and report.paid:
        # No other event reports a single payment, or to which of our customers a plan belongs.
        # After a restore the checkout is unknown until its caller repeats the request, and then has
        # another session if Stripe has forgotten the first request.
        raise NotFound(
            f"session {report.checkout_id} was paid for checkout {ours}, which is unknown here or "
            "has another session: have its caller repeat it with its Idempotency-Key, then "
            "replay this; or refund it at Stripe"
        )
    if checkout is not None and report.paid:
        # The response with the reference may be missing after a restore, and refunds need it.
        checkout.reference = checkout.reference or report.checkout_id
        if report.customer_id is not None:
            checkout.customer_id = _id(models.Customer, event, report.customer_id)
        if report.subscription_id is not None:
            checkout.subscription_id = _id(models.Subscription, event, report.subscription_id)
        known = report.amount is not None and report.currency is not None
        paid = (report.amount or 0, report.currency or "") if known else None
        await outcomes.apply_payment(work, event, checkout, paid, report.contact)
    if report.payment_id is not None and report.mode == "payment" and report.paid:
        await _save_single_payment(work, event, report.payment_id, checkout)
    if report.customer_id is None:
        return  # a guest's single payment: no customer or subscription of ours
    await store.update_contact(
        work, event, _id(models.Customer, event, report.customer_id), report.contact
    )
    if report.subscription_id is not None and report.paid and report.amount != 0:
        await _report_payment(work, event, report.subscription_id, report.customer_id, paid=True)


async def _save_single_payment(
    work: UnitOfWork,
    event: Event[CheckoutCompleted],
    payment_id: str,
    checkout: models.Checkout | None,
) -> None:
    report = event.data
    if not report.amount or report.currency is None:
        return
    outcome = PaymentOutcome(
        provider=report.provider,
        payment_id=payment_id,
        references=[report.checkout_id],
        customer_id=report.customer_id,
        amount=report.amount,
        currency=report.currency,
    )
    row = await payments.save_payment(work.session, event, outcome, paid=True)
    if checkout is not None:
        await payments.assign_checkout(work, event, row, checkout)


async def on_payment(work: UnitOfWork, event: Event[PaymentOutcome]) -> None:
    report = event.data
    paid = event.type == "payment.succeeded"
    row = await payments.save_payment(work.session, event, report, paid=paid)
    checkout = outcomes.find_checkout(work.session, event)
    if checkout is not None:
        await payments.assign_checkout(work, event, row, checkout)
    elif report.customer_id is None and report.provider != "stripe" and paid:
        _count_unclaimed(event)  # of Stripe's payments, their sessions name the checkout
    if checkout is not None and paid:
        amount = (report.amount, report.currency)
        await outcomes.apply_payment(work, event, checkout, amount, report.contact)
    elif checkout is not None:
        expired = event.type == "payment.expired"
        status = CheckoutStatus.EXPIRED if expired else CheckoutStatus.FAILED
        outcome = Outcome(status, event.time, event.id)
        await outcomes.apply_outcome(work, event, checkout, outcome, report.contact)
    if report.customer_id is None:
        return
    await store.update_contact(
        work,
        event,
        _id(models.Customer, event, report.customer_id),
        report.contact,
        as_of=report.contact_as_of,
    )
    # A paid invoice of nothing begins a trial, which the subscription itself reports.
    if report.subscription_id is not None and not (paid and report.amount == 0):
        await _report_payment(work, event, report.subscription_id, report.customer_id, paid=paid)


def _count_unclaimed(event: Event[PaymentOutcome]) -> None:
    """Count a payment without a checkout: after a restore, the database may lack the checkout."""
    metrics.unclaimed.labels(event.data.provider).inc()
    log.warning(
        "payment_without_checkout",
        hint="it is saved as a payment; see docs/runbooks/payments.md",
        tenant=event.tenant,
        source=event.source,
        payment=event.data.payment_id,
    )


async def on_payment_duplicated(work: UnitOfWork, event: Event[PaymentOutcome]) -> None:
    await payments.save_payment(work.session, event, event.data, paid=True)
    checkout = outcomes.find_checkout(work.session, event)
    if checkout is None:
        _count_unclaimed(event)
    else:
        await outcomes.apply_further_charge(work, event, checkout)


async def on_payment_refunded(work: UnitOfWork, event: Event[PaymentRefunded]) -> None:
    await payments.save_refunds(work, event)
    await _update_payment_standing(work, event)


async def on_payment_disputed(work: UnitOfWork, event: Event[PaymentDisputed]) -> None:
    await payments.save_dispute(work, event)
    await _update_payment_standing(work, event)


async def _update_payment_standing(work: UnitOfWork, event: Event[Any]) -> None:
    """Evaluate the subscriptions again whose payment the event is about."""
    paid = await repository.subscriptions_paid_by(
        work.session, [event.tenant], _payment_references(event)
    )
    for id_ in sorted(paid):
        row = await work.session.get_one(models.Subscription, id_, with_for_update=True)
        await store.update_payment_standing(work, event, row)


def _payment_references(event: Event[Any]) -> list[str]:
    data = event.data
    if isinstance(data, PaymentRefunded | PaymentDisputed | RefundReported):
        return data.references
    if isinstance(data, PaymentLinked):
        return [data.payment_id]
    return []


async def on_payment_linked(work: UnitOfWork, event: Event[PaymentLinked]) -> None:
    report = event.data
    row = await work.session.get_one(models.Payment, _id(models.Payment, event, report.payment_id))
    row.references = sorted({*row.references, *report.references})
    await work.session.flush()
    await _update_payment_standing(work, event)


async def on_refund_reported(work: UnitOfWork, event: Event[RefundReported]) -> None:
    if event.data.status == "failed":
        await payments.save_failed_refund(work, event)
        await _update_payment_standing(work, event)
    await refunds.take_report(work, event)


async def on_provider_subscription(work: UnitOfWork, event: Event[ProviderSubscription]) -> None:
    report = event.data
    said = report.metadata
    contact = Contact(email=said.get("email"), name=said.get("organization") or said.get("name"))
    await store.update_contact(
        work,
        event,
        _id(models.Customer, event, report.customer_id),
        contact,
        as_of=report.metadata_as_of,
    )
    for plan in _plans(report):
        await store.save_plan(work.session, event, report.provider, plan)
    was = report.previous
    snapshot = Snapshot(
        at=event.time,
        event_id=event.id,
        lifecycle=Lifecycle(event.type.rpartition(".")[2]),
        facts=_facts(event, report, report.plan.plan_id if report.plan else None),
        previous=_facts(event, was, was.plan_id) if was is not None else None,
        recorded_at=event.recordedtime or event.time,
    )
    row = await _subscription(work.session, event, report.subscription_id)
    before = store.to_domain(row)
    await store.save_changes(work, event, row, before, domain.take_snapshot(before, snapshot))
    commands.confirm(work.session, event)


async def on_provider_customer(work: UnitOfWork, event: Event[ProviderCustomer]) -> None:
    report = event.data
    customer = _id(models.Customer, event, report.customer_id)
    await store.update_contact(work, event, customer, report.contact, removed=report.removed)


async def on_provider_customer_deleted(work: UnitOfWork, event: Event[ProviderCustomer]) -> None:
    await store.erase_contact(work, event, _id(models.Customer, event, event.data.customer_id))


HANDLERS: Mapping[str, Handler] = {
    "checkout.completed": on_checkout_completed,
    "payment.succeeded": on_payment,
    "payment.failed": on_payment,
    "payment.expired": on_payment,
    "payment.duplicated": on_payment_duplicated,
    "payment.refunded": on_payment_refunded,
    "payment.disputed": on_payment_disputed,
    "payment.linked": on_payment_linked,
    "refund.reported": on_refund_reported,
    "provider_subscription.created": on_provider_subscription,
    "provider_subscription.updated": on_provider_subscription,
    "provider_subscription.deleted": on_provider_subscription,
    "provider_customer.updated": on_provider_customer,
    "provider_customer.deleted": on_provider_customer_deleted,
}


async def prepare(payers: Payers, session: AsyncSession, events: Sequence[Event[Any]]) -> None:
    """Lock every row that the batch touches, one table at a time and always in the same order."""
    await outcomes.lock_checkouts(session, events, payers)
    await commands.lock(session, events)
    customers: dict[str, dict[str, Any]] = {}
    subscriptions: dict[str, dict[str, Any]] = {}
    reported: dict[str, dict[str, Any]] = {}
    plans = []
    for event in events:
        data = event.data
        owner = {"tenant": event.tenant, "provider": data.provider}
        customer = getattr(data, "customer_id", None)
        subscription = getattr(data, "subscription_id", None)
        customer_id = _id(models.Customer, event, customer) if customer else None
        if customer_id is not None:
            customers[customer_id] = owner | {"provider_customer_id": customer}
        subscription_id = _id(models.Subscription, event, subscription) if subscription else None
        if subscription_id is not None and customer_id is not None:
            subscriptions[subscription_id] = owner | {
                "provider_subscription_id": subscription,
                "customer_id": customer_id,
            }
        checkout = outcomes.find_checkout(session, event)
        if checkout is not None and checkout.provider != "stripe":
            ours, ours_subscribed = outcomes.rows_to_lock(checkout)
            customers |= ours
            subscriptions |= ours_subscribed
            customer_id, subscription_id = checkout.customer_id, checkout.subscription_id
        paid_by = getattr(data, "payment_id", None)
        if paid_by is not None:
            known = {"customer_id": customer_id, "subscription_id": subscription_id}
            payment = reported.setdefault(
                _id(models.Payment, event, paid_by),
                owner | {"provider_payment_id": paid_by} | known,
            )
            payment |= {name: value for name, value in known.items() if value is not None}
        if isinstance(data, ProviderSubscription):
            plans += [_id(models.Plan, event, each.plan_id) for each in _plans(data)]
    references = {name for event in events for name in _payment_references(event)}
    tenants = {event.tenant for event in events}
    # Known ones, so nothing is inserted for them.
    for id_ in await repository.subscriptions_paid_by(session, tenants, references):
        subscriptions.setdefault(id_, {})
    await tenant_rows.lock_or_insert(session, models.Customer, customers)
    await tenant_rows.lock_or_insert(session, models.Subscription, subscriptions)
    await tenant_rows.lock_or_insert(session, models.Payment, reported)
    if plans:
        tenant_rows.pin(session, await repository.plans(session, plans))


async def _report_payment(
    work: UnitOfWork, event: Event[Any], subscription: str, customer: str, *, paid: bool
) -> None:
    row = await _subscription(work.session, event, subscription)
    before = store.to_domain(row)
    report = PaymentReport(at=event.time, event_id=event.id, paid=paid)
    await store.save_changes(work, event, row, before, domain.take_payment(before, report))
    if paid and row.provider != models.OURS:
        await store.update_payment_standing(work, event, row)


async def _subscription(
    session: AsyncSession, event: Event[Any], provider_subscription_id: str
) -> models.Subscription:
    id_ = _id(models.Subscription, event, provider_subscription_id)
    return await session.get_one(models.Subscription, id_)


def _plans(report: ProviderSubscription) -> list[PlanSnapshot]:
    """Return the report's plans; one shared by two items is listed once."""
    plans = [*filter(None, [report.plan]), *report.more_plans]
    return list({each.plan_id: each for each in plans}.values())


def _facts(
    event: Event[ProviderSubscription],
    said: ProviderSubscription | PreviousSubscription,
    plan: str | None,
) -> Facts:
    return Facts(
        status=said.status,
        plan_id=_id(models.Plan, event, plan) if plan is not None else None,
        items=tuple(
            Item(_id(models.Plan, event, each.plan_id), each.quantity, each.current_period_end)
            for each in said.items
        ),
        current_period_end=said.current_period_end,
        cancel_at_period_end=said.cancel_at_period_end,
        cancel_at=said.cancel_at,
        trialing=said.trialing,
        collection_paused=said.collection_paused,
    )


def _id(table: type[models.Row], event: Event[Any], provider_id: str) -> str:
    return row_id(table, event.tenant, event.data.provider, provider_id)

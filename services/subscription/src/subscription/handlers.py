"""What each event does. One event, one function; a batch shares one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common import rows
from common.contracts.event import Event
from common.contracts.payments import (
    CheckoutCompleted,
    Contact,
    PaymentDisputed,
    PaymentRefunded,
    PaymentReported,
    RefundReported,
)
from common.contracts.subscriptions import PlanSnapshot, PreviousSubscription, ProviderSubscription
from common.logs import get_logger
from common.messaging.outbox import Work
from common.messaging.transactional import Handler
from subscription import commands, domain, metrics, models, recording, refunds, repository, settling
from subscription.domain import Facts, Item, Lifecycle, PaymentReport, Snapshot
from subscription.models import row_id
from subscription.outcomes import CheckoutStatus, Outcome
from subscription.payers import Payers

log = get_logger(__name__)


async def on_checkout_completed(work: Work, event: Event[CheckoutCompleted]) -> None:
    report = event.data
    checkout = settling.checkout_of(work.session, event)
    if checkout is not None and report.paid:
        if report.customer_id is not None:
            checkout.customer_id = _id(models.Customer, event, report.customer_id)
        if report.subscription_id is not None:
            checkout.subscription_id = _id(models.Subscription, event, report.subscription_id)
        known = report.amount is not None and report.currency is not None
        paid = (report.amount or 0, report.currency or "") if known else None
        await settling.settle_payment(work, event, checkout, paid, report.contact)
    if report.customer_id is None:
        return  # a guest's single payment: neither customer nor subscription of ours
    await recording.update_contact(
        work, event, _id(models.Customer, event, report.customer_id), report.contact
    )
    if report.subscription_id is not None and report.paid:
        await _report_payment(work, event, report.subscription_id, report.customer_id, paid=True)


async def on_payment(work: Work, event: Event[PaymentReported]) -> None:
    report = event.data
    paid = event.type == "payment.succeeded"
    await recording.keep_payment(work.session, event, paid=paid)
    checkout = settling.checkout_of(work.session, event)
    if checkout is None and report.customer_id is None and paid:
        # After a restore there may be money for a checkout that the database has forgotten.
        metrics.unclaimed.labels(report.provider).inc()
        log.warning(
            "money came that no checkout here has asked for: it is kept as a payment",
            tenant=event.tenant,
            source=event.source,
            payment=report.payment_id,
        )
    if checkout is not None and paid:
        amount = (report.amount, report.currency)
        await settling.settle_payment(work, event, checkout, amount, report.contact)
    elif checkout is not None:
        expired = event.type == "payment.expired"
        status = CheckoutStatus.EXPIRED if expired else CheckoutStatus.FAILED
        outcome = Outcome(status, event.time, event.id)
        await settling.settle(work, event, checkout, outcome, report.contact)
    if report.customer_id is None:
        return
    await recording.update_contact(
        work, event, _id(models.Customer, event, report.customer_id), report.contact
    )
    if report.subscription_id is not None:
        await _report_payment(work, event, report.subscription_id, report.customer_id, paid=paid)


async def on_payment_duplicated(work: Work, event: Event[PaymentReported]) -> None:
    await recording.keep_payment(work.session, event, paid=True)
    checkout = settling.checkout_of(work.session, event)
    if checkout is not None:  # else the gateway has said so, and the payment is kept
        await settling.settle_further_charge(work, event, checkout)


async def on_payment_refunded(work: Work, event: Event[PaymentRefunded]) -> None:
    report = event.data
    await recording.keep_reversal(
        work.session, event, "refund", report.refund_of, report.amount_refunded, None
    )


async def on_payment_disputed(work: Work, event: Event[PaymentDisputed]) -> None:
    report = event.data
    await recording.keep_reversal(
        work.session, event, "dispute", report.dispute_id, report.amount, report.reason
    )


async def on_refund_reported(work: Work, event: Event[RefundReported]) -> None:
    report = event.data
    if report.status == "failed":
        await recording.keep_reversal(
            work.session, event, "refund_failed", report.refund_id, report.amount, report.reason
        )
    await refunds.take_report(work, event)


async def on_provider_subscription(work: Work, event: Event[ProviderSubscription]) -> None:
    report = event.data
    said = report.metadata
    contact = Contact(email=said.get("email"), name=said.get("organization") or said.get("name"))
    await recording.update_contact(
        work, event, _id(models.Customer, event, report.customer_id), contact
    )
    for plan in _plans(report):
        await recording.keep_plan(work.session, event, report.provider, plan)
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
    before = recording.read(row)
    await recording.write(work, event, row, before, domain.take_snapshot(before, snapshot))
    commands.confirm(work.session, event)


HANDLERS: Mapping[str, Handler] = {
    "checkout.completed": on_checkout_completed,
    "payment.succeeded": on_payment,
    "payment.failed": on_payment,
    "payment.expired": on_payment,
    "payment.duplicated": on_payment_duplicated,
    "payment.refunded": on_payment_refunded,
    "payment.disputed": on_payment_disputed,
    "refund.reported": on_refund_reported,
    "provider_subscription.created": on_provider_subscription,
    "provider_subscription.updated": on_provider_subscription,
    "provider_subscription.deleted": on_provider_subscription,
}


async def prepare(payers: Payers, session: AsyncSession, events: Sequence[Event[Any]]) -> None:
    """Lock, in one go per table and always in the same order, every row that the batch touches."""
    await settling.lock_checkouts(session, events, payers)
    await commands.lock(session, events)
    customers: dict[str, dict[str, Any]] = {}
    subscriptions: dict[str, dict[str, Any]] = {}
    payments: dict[str, dict[str, Any]] = {}
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
        checkout = settling.checkout_of(session, event)
        if checkout is not None and checkout.provider != "stripe":
            ours, ours_subscribed = settling.owned_rows(checkout)
            customers |= ours
            subscriptions |= ours_subscribed
            customer_id, subscription_id = checkout.customer_id, checkout.subscription_id
        if isinstance(data, PaymentReported):
            payments[_id(models.Payment, event, data.payment_id)] = owner | {
                "provider_payment_id": data.payment_id,
                "customer_id": customer_id,
                "subscription_id": subscription_id,
            }
        if isinstance(data, ProviderSubscription):
            plans += [_id(models.Plan, event, each.plan_id) for each in _plans(data)]
    await rows.lock(session, models.Customer, customers)
    await rows.lock(session, models.Subscription, subscriptions)
    await rows.lock(session, models.Payment, payments)
    if plans:
        rows.hold(session, await repository.plans(session, plans))


async def _report_payment(
    work: Work, event: Event[Any], subscription: str, customer: str, *, paid: bool
) -> None:
    row = await _subscription(work.session, event, subscription)
    before = recording.read(row)
    report = PaymentReport(at=event.time, event_id=event.id, paid=paid)
    await recording.write(work, event, row, before, domain.take_payment(before, report))


async def _subscription(
    session: AsyncSession, event: Event[Any], provider_subscription_id: str
) -> models.Subscription:
    id_ = _id(models.Subscription, event, provider_subscription_id)
    return await session.get_one(models.Subscription, id_)


def _plans(report: ProviderSubscription) -> list[PlanSnapshot]:
    """One of two items at one price is kept once."""
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
    )


def _id(table: type[models.Row], event: Event[Any], provider_id: str) -> str:
    return row_id(table, event.tenant, event.data.provider, provider_id)

"""What each event does. One event, one function; a batch shares one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
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
)
from common.contracts.subscriptions import (
    CustomerChanged,
    PlanSnapshot,
    ProviderSubscription,
    Status,
    SubscriptionChanged,
)
from common.messaging.outbox import Work
from common.messaging.transactional import Handler
from subscription import domain, models, repository
from subscription.domain import Change, Known, Lifecycle, PaymentReport, Snapshot
from subscription.models import row_id


async def on_checkout_completed(work: Work, event: Event[CheckoutCompleted]) -> None:
    report = event.data
    if report.customer_id is None:
        return  # a guest's single payment: neither customer nor subscription of ours
    await _update_contact(work, event, report.customer_id, report.contact)
    if report.subscription_id is not None and report.paid:
        await _report_payment(work, event, report.subscription_id, report.customer_id, paid=True)


async def on_payment(work: Work, event: Event[PaymentReported]) -> None:
    report = event.data
    paid = event.type == "payment.succeeded"
    await _keep_payment(work.session, event, paid=paid)
    if report.customer_id is None:
        return
    await _update_contact(work, event, report.customer_id, report.contact)
    if report.subscription_id is not None:
        await _report_payment(work, event, report.subscription_id, report.customer_id, paid=paid)


async def on_payment_refunded(work: Work, event: Event[PaymentRefunded]) -> None:
    report = event.data
    await _keep_reversal(
        work.session, event, "refund", report.refund_of, report.amount_refunded, None
    )


async def on_payment_disputed(work: Work, event: Event[PaymentDisputed]) -> None:
    report = event.data
    await _keep_reversal(
        work.session, event, "dispute", report.dispute_id, report.amount, report.reason
    )


async def on_provider_subscription(work: Work, event: Event[ProviderSubscription]) -> None:
    report = event.data
    said = report.metadata
    contact = Contact(email=said.get("email"), name=said.get("organization") or said.get("name"))
    await _update_contact(work, event, report.customer_id, contact)
    if report.plan is not None:
        await _keep_plan(work.session, event, report.provider, report.plan)
    snapshot = Snapshot(
        at=event.time,
        event_id=event.id,
        lifecycle=Lifecycle(event.type.rpartition(".")[2]),
        status=report.status,
        plan_id=_plan_id(event, report.provider, report.plan),
        current_period_end=report.current_period_end,
        cancel_at_period_end=report.cancel_at_period_end,
    )
    row = await _subscription(work.session, event, report.subscription_id)
    before = _read(row)
    after, changes = domain.take_snapshot(before, snapshot)
    await _write(work, event, row, before, after, changes)


HANDLERS: Mapping[str, Handler] = {
    "checkout.completed": on_checkout_completed,
    "payment.succeeded": on_payment,
    "payment.failed": on_payment,
    "payment.expired": on_payment,
    "payment.refunded": on_payment_refunded,
    "payment.disputed": on_payment_disputed,
    "provider_subscription.created": on_provider_subscription,
    "provider_subscription.updated": on_provider_subscription,
    "provider_subscription.deleted": on_provider_subscription,
}


async def prepare(session: AsyncSession, events: Sequence[Event[Any]]) -> None:
    """Lock, in one go per table and always in the same order, every row that the batch touches."""
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
        if isinstance(data, PaymentReported):
            payments[_id(models.Payment, event, data.payment_id)] = owner | {
                "provider_payment_id": data.payment_id,
                "customer_id": customer_id,
                "subscription_id": subscription_id,
            }
        if isinstance(data, ProviderSubscription) and data.plan is not None:
            plans.append(_id(models.Plan, event, data.plan.plan_id))
    await rows.lock(session, models.Customer, customers)
    await rows.lock(session, models.Subscription, subscriptions)
    await rows.lock(session, models.Payment, payments)
    if plans:
        rows.hold(session, await repository.plans(session, plans))


async def _report_payment(
    work: Work, event: Event[Any], subscription: str, customer: str, *, paid: bool
) -> None:
    row = await _subscription(work.session, event, subscription)
    before = _read(row)
    report = PaymentReport(at=event.time, event_id=event.id, paid=paid)
    after, changes = domain.take_payment(before, report)
    await _write(work, event, row, before, after, changes)


async def _update_contact(
    work: Work, event: Event[Any], provider_customer_id: str, contact: Contact
) -> None:
    id_ = _id(models.Customer, event, provider_customer_id)
    row = await work.session.get_one(models.Customer, id_)
    email = _known(row.email, row.email_at, row.email_event_id)
    name = _known(row.name, row.name_at, row.name_event_id)
    new_email = email.or_newer(contact.email, event.time, event.id)
    new_name = name.or_newer(contact.name, event.time, event.id)
    if new_email is not email:
        row.email, row.email_at, row.email_event_id = _columns(new_email)
    if new_name is not name:
        row.name, row.name_at, row.name_event_id = _columns(new_name)
    if (new_email.value, new_name.value) != (email.value, name.value):
        row.version += 1
        work.emit(
            "customer.changed",
            CustomerChanged(customer_id=row.id, contact=Contact(email=row.email, name=row.name)),
            subject=row.id,
            sequence=row.version,
            cause=event,
        )


async def _keep_payment(
    session: AsyncSession, event: Event[PaymentReported], *, paid: bool
) -> None:
    report = event.data
    row = await session.get_one(models.Payment, _id(models.Payment, event, report.payment_id))
    row.references = sorted({*row.references, *report.references, report.payment_id})
    new = domain.Payment(
        paid, event.time, event.id, report.amount, report.currency, None if paid else report.reason
    )
    if row.paid is not None and (row.paid, row.reported_at, row.reported_event_id) >= new.order:
        return
    row.paid, row.reported_at, row.reported_event_id = new.order
    row.amount, row.currency, row.reason = new.amount, new.currency, new.reason


async def _keep_reversal(
    session: AsyncSession,
    event: Event[PaymentRefunded] | Event[PaymentDisputed],
    kind: str,
    provider_id: str,
    amount: int,
    reason: str | None,
) -> None:
    report = event.data
    values = {
        "id": _id(models.Reversal, event, provider_id),
        "tenant": event.tenant,
        "provider": report.provider,
        "kind": kind,
        "amount": amount,
        "currency": report.currency,
        "reason": reason,
        "references": report.references,
        "reported_at": event.time,
    }
    await repository.keep_reversal(session, values)


async def _keep_plan(
    session: AsyncSession, event: Event[Any], provider: str, plan: PlanSnapshot
) -> None:
    id_ = row_id(models.Plan, event.tenant, provider, plan.plan_id)
    facts = {
        "name": plan.name,
        "amount": plan.amount,
        "currency": plan.currency,
        "interval": plan.interval,
    }
    known = await session.get(models.Plan, id_)
    if known is not None and all(getattr(known, key) == value for key, value in facts.items()):
        return  # not written again: every subscription of the plan would wait for the row
    values = {
        "id": id_,
        "tenant": event.tenant,
        "provider": provider,
        "provider_plan_id": plan.plan_id,
        "seen_at": event.time,
        "seen_event_id": event.id,
    }
    await repository.keep_plan(session, values | facts)
    if known is not None:
        await session.refresh(known)  # for the rest of the batch


async def _subscription(
    session: AsyncSession, event: Event[Any], provider_subscription_id: str
) -> models.Subscription:
    id_ = _id(models.Subscription, event, provider_subscription_id)
    return await session.get_one(models.Subscription, id_)


def _read(row: models.Subscription) -> domain.Subscription:
    snapshot = payment = None
    if row.snapshot_at is not None:
        snapshot = Snapshot(
            at=row.snapshot_at,
            event_id=row.snapshot_event_id or "",
            lifecycle=Lifecycle(row.snapshot_lifecycle or ""),
            status=Status(row.snapshot_status or ""),
            plan_id=row.plan_id,
            current_period_end=row.current_period_end,
            cancel_at_period_end=row.cancel_at_period_end,
        )
    if row.payment_at is not None:
        payment = PaymentReport(row.payment_at, row.payment_event_id or "", bool(row.payment_paid))
    return domain.Subscription(snapshot, payment, row.ever_active)


async def _write(
    work: Work,
    event: Event[Any],
    row: models.Subscription,
    before: domain.Subscription,
    after: domain.Subscription,
    changes: Sequence[Change],
) -> None:
    row.status = after.status
    row.ever_active = after.ever_active
    if after.snapshot is not None and after.snapshot is not before.snapshot:
        row.plan_id = after.plan_id
        row.current_period_end = after.current_period_end
        row.cancel_at_period_end = after.cancel_at_period_end
        row.snapshot_at = after.snapshot.at
        row.snapshot_event_id = after.snapshot.event_id
        row.snapshot_lifecycle = after.snapshot.lifecycle
        row.snapshot_status = after.snapshot.status
    if after.payment is not None:
        row.payment_at = after.payment.at
        row.payment_event_id = after.payment.event_id
        row.payment_paid = after.payment.paid
    customer = await work.session.get_one(models.Customer, row.customer_id)
    for change in changes:
        row.version += 1
        work.emit(
            f"subscription.{change}",
            SubscriptionChanged(
                subscription_id=row.id,
                customer_id=row.customer_id,
                provider=row.provider,
                provider_subscription_id=row.provider_subscription_id,
                status=after.status,
                plan_id=after.plan_id,
                current_period_end=after.current_period_end,
                contact=Contact(email=customer.email, name=customer.name),
                contact_sequence=customer.version,
                previous_plan_id=before.plan_id if change is Change.PLAN_CHANGED else None,
            ),
            subject=row.id,
            sequence=row.version,
            cause=event,
        )


def _known(value: str | None, at: datetime | None, event_id: str | None) -> Known:
    return Known() if at is None else Known(value, at, event_id or "")


def _columns(known: Known) -> tuple[str | None, datetime, str]:
    return known.value, known.at, known.event_id


def _plan_id(event: Event[Any], provider: str, plan: PlanSnapshot | None) -> str | None:
    return row_id(models.Plan, event.tenant, provider, plan.plan_id) if plan else None


def _id(table: type[models.Row], event: Event[Any], provider_id: str) -> str:
    return row_id(table, event.tenant, event.data.provider, provider_id)

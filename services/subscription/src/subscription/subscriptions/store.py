"""Storage of what events report, and publication of the resulting changes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event
from common.contracts.payments import MONEY_IS_TAKEN, Contact
from common.contracts.subscriptions import (
    CustomerChanged,
    PlanSnapshot,
    SubscriptionChanged,
    SubscriptionItem,
)
from common.db import tenant_rows
from common.messaging.outbox import UnitOfWork
from subscription import domain, models, repository
from subscription.domain import (
    Change,
    Item,
    PaymentReport,
    Phase,
    Policy,
    ReversalKind,
    Seen,
    Snapshot,
    VersionedValue,
)
from subscription.models import OURS, row_id

# Longer than a transaction of a handler.
_COMMITTED_AFTER = timedelta(minutes=1)
_BY_JOB = "job.run.subscription"


async def update_contact(
    work: UnitOfWork,
    event: Event[Any],
    customer_id: str,
    contact: Contact,
    *,
    as_of: datetime | None = None,
    removed: Collection[str] = (),
) -> None:
    """Update the customer's contact. The customer's row exists, and is locked. `as_of` is when the
    contact was right, if that was before the event (UTC); the fields `removed` have no value
    since then."""
    at = as_of or event.time
    row = await work.session.get_one(models.Customer, customer_id)
    if row.deleted_at is not None:
        return  # a deletion is final: https://docs.stripe.com/api/customers/delete
    email = _known(row.email, row.email_at, row.email_event_id)
    name = _known(row.name, row.name_at, row.name_event_id)
    email = email.erased(at, event.id) if "email" in removed else email
    name = name.erased(at, event.id) if "name" in removed else name
    _save_contact(
        work,
        event,
        row,
        email.or_newer(contact.email, at, event.id),
        name.or_newer(contact.name, at, event.id),
    )


async def erase_contact(work: UnitOfWork, event: Event[Any], customer_id: str) -> None:
    """Erase the contact of a customer whom the provider deleted."""
    row = await work.session.get_one(models.Customer, customer_id)
    if row.deleted_at is None:
        row.deleted_at = event.time
    nothing = VersionedValue(None, event.time, event.id)
    _save_contact(work, event, row, nothing, nothing)


def _save_contact(
    work: UnitOfWork,
    event: Event[Any],
    row: models.Customer,
    email: VersionedValue,
    name: VersionedValue,
) -> None:
    changed = (email.value, name.value) != (row.email, row.name)
    row.email, row.email_at, row.email_event_id = _columns(email)
    row.name, row.name_at, row.name_event_id = _columns(name)
    if not changed:
        return
    row.version += 1
    work.emit(
        "customer.changed",
        CustomerChanged(customer_id=row.id, contact=Contact(email=row.email, name=row.name)),
        subject=row.id,
        sequence=row.version,
        cause=event,
    )


async def save_plan(
    session: AsyncSession, event: Event[Any], provider: str, plan: PlanSnapshot
) -> None:
    id_ = row_id(models.Plan, event.tenant, provider, plan.plan_id)
    facts = {
        "name": plan.name,
        "amount": plan.amount,
        "currency": plan.currency,
        "interval": plan.interval,
        "interval_count": plan.interval_count,
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
    await repository.save_plan(session, values | facts)
    if known is not None:
        await session.refresh(known)  # for the rest of the batch


def to_domain(row: models.Subscription) -> domain.Subscription:
    payment = None
    if row.payment_at is not None:
        payment = PaymentReport(row.payment_at, row.payment_event_id or "", bool(row.payment_paid))
    # Earlier versions stored the snapshots of one second only, and that second beside them.
    stored = [{"at": row.snapshot_at, **each} for each in row.snapshots]
    snapshots = tuple(_STORED.validate_python(each) for each in stored)
    statuses = frozenset(_SEEN.validate_python(each) for each in row.statuses)
    return domain.Subscription(
        snapshots,
        payment,
        row.ever_active,
        statuses,
        row.refunded,
        row.disputed,
        row.ever_beyond_trial,
    )


def items_of(row: models.Subscription) -> Sequence[Item]:
    """Return one item per plan; for a single plan it has no quantity, and perhaps no id."""
    if row.items:
        return _ITEMS.validate_python(row.items)
    return (Item(row.plan_id or "", None, row.current_period_end),)


_STORED: TypeAdapter[Snapshot] = TypeAdapter(Snapshot)
_SEEN: TypeAdapter[Seen] = TypeAdapter(Seen)
_ITEMS: TypeAdapter[tuple[Item, ...]] = TypeAdapter(tuple[Item, ...])


async def save_changes(
    work: UnitOfWork,
    event: Event[Any],
    row: models.Subscription,
    before: domain.Subscription,
    after: domain.Subscription,
    more: Sequence[Change] = (),
) -> None:
    """Save the subscription; publish its changes, by the tenant's policy and the time, and
    `more`."""
    now = await database_now(work.session)
    policy, row.policy_version = await policy_of(work.session, row)
    phase = after.phase(policy, now, Phase(row.phase))
    changes = [*domain.changes((before, Phase(row.phase)), (after, phase)), *more]
    row.status, row.phase = after.status, phase
    row.ever_active, row.ever_beyond_trial = after.ever_active, after.ever_beyond_trial
    if row.provider != OURS:  # our own are timed by `renewals`
        row.due_at = after.changes_at(policy, now)
    if after.snapshots != before.snapshots:
        facts = after.facts
        row.plan_id = facts.plan_id
        row.items = _ITEMS.dump_python(facts.items, mode="json")
        row.current_period_end = facts.current_period_end
        row.cancel_at_period_end, row.cancel_at = facts.cancel_at_period_end, facts.cancel_at
        row.trialing, row.collection_paused = facts.trialing, facts.collection_paused
        row.snapshot_at = after.snapshots[-1].at
        row.snapshots = [_STORED.dump_python(each, mode="json") for each in after.snapshots]
    if after.statuses != before.statuses:
        row.statuses = [_SEEN.dump_python(each, mode="json") for each in sorted(after.statuses)]
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
                plan_id=after.facts.plan_id,
                items=[SubscriptionItem(**vars(each)) for each in after.facts.items],
                current_period_end=after.facts.current_period_end,
                contact=Contact(email=customer.email, name=customer.name),
                contact_sequence=customer.version,
                previous_plan_id=before.facts.plan_id if change is Change.PLAN_CHANGED else None,
            ),
            subject=row.id,
            sequence=row.version,
            cause=event,
            tenant=row.tenant,
        )


async def reassess(work: UnitOfWork, event: Event[Any], row: models.Subscription) -> None:
    """Evaluate the (locked) subscription again without a report: it is due, or its tenant's policy
    was changed."""
    subscription = to_domain(row)
    await save_changes(work, event, row, subscription, subscription)


async def update_payment_standing(
    work: UnitOfWork, event: Event[Any], row: models.Subscription
) -> None:
    """Evaluate the (locked) subscription again after a payment of it, or its refunds or disputes,
    were reported.

    Both may be reported at the same time, by events that share no lock. If the tenant's policy
    depends on it, the job `renewals` therefore looks once more after both are committed.
    """
    await work.session.flush()
    policy, _ = await policy_of(work.session, row)
    if event.type != _BY_JOB and not (policy.refunded and policy.disputed):
        soon = await database_now(work.session) + _COMMITTED_AFTER
        row.due_at = min(row.due_at or soon, soon)
    newest = await repository.newest_payment(work.session, row)
    if newest is None:
        return
    reversals = (await repository.reversals_of(work.session, [newest]))[newest.id]
    back = sum(each.amount for each in reversals if each.kind == ReversalKind.REFUND)
    refunded = 0 < (newest.amount or 0) <= back
    disputed = any(each.status in MONEY_IS_TAKEN for each in reversals)
    if (refunded, disputed) == (row.refunded, row.disputed):
        return
    before, due_at = to_domain(row), row.due_at
    row.refunded, row.disputed = refunded, disputed
    after = replace(before, refunded=refunded, disputed=disputed)
    await save_changes(work, event, row, before, after)
    if event.type != _BY_JOB:
        row.due_at = min((each for each in (due_at, row.due_at) if each), default=None)


async def database_now(session: AsyncSession) -> datetime:
    """Return the database's time, queried once per transaction."""
    if "now" not in session.info:
        session.info["now"] = await tenant_rows.database_now(session)
    now: datetime = session.info["now"]
    return now


async def policy_of(session: AsyncSession, row: models.Subscription) -> tuple[Policy, int]:
    """Return the policy for the subscription, and its version."""
    policies: dict[str, tuple[Policy, int]] = session.info.setdefault("policies", {})
    if row.tenant not in policies:
        stored, version = await repository.policy(session, row.tenant)
        policies[row.tenant] = stored.as_rules(), version
    policy, version = policies[row.tenant]
    if row.provider == OURS:  # a plan of our own has its own grace period
        policy = replace(policy, past_due_grace=None)
    return policy, version


def _known(value: str | None, at: datetime | None, event_id: str | None) -> VersionedValue:
    return VersionedValue() if at is None else VersionedValue(value, at, event_id or "")


def _columns(known: VersionedValue) -> tuple[str | None, datetime | None, str | None]:
    if known == VersionedValue():
        return None, None, None
    return known.value, known.at, known.event_id

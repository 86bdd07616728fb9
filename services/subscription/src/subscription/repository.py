"""SQL queries of the subscription service."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, exists, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import array, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from common.contracts.subscriptions import Status
from common.db import tenant_rows
from common.db.bulk import equals_any
from subscription import models
from subscription.domain import ENTITLING, ReversalKind
from subscription.models import (
    Checkout,
    Command,
    Customer,
    Payment,
    Plan,
    Refund,
    Reversal,
    Subscription,
)
from subscription.schemas.billing import CONFIRMED, UNFINISHED, CommandStatus
from subscription.schemas.checkout import EntitlementPolicy


async def plans(session: AsyncSession, ids: Iterable[str]) -> Sequence[Plan]:
    """Return the plans; not locked, since all subscriptions share them."""
    return (await session.scalars(select(Plan).where(equals_any(Plan.id, sorted(set(ids)))))).all()


async def policy(session: AsyncSession, tenant: str) -> tuple[EntitlementPolicy, int]:
    """Return the tenant's policy and its version; the defaults and 0 if none was set."""
    row = await session.get(models.EntitlementPolicy, tenant)
    if row is None:
        return EntitlementPolicy(), 0
    return EntitlementPolicy.model_validate(row.policy, extra="ignore"), row.version


async def set_policy(
    session: AsyncSession, tenant: str, request: EntitlementPolicy, by: str
) -> None:
    """Store the tenant's policy under a new version. `judged_otherwise` finds the subscriptions
    that were evaluated with another version."""
    values = {"policy": request.model_dump(mode="json"), "changed_by": by}
    row = insert(models.EntitlementPolicy).values(tenant=tenant, **values)
    changed = {"changed_at": func.now(), "version": models.EntitlementPolicy.version + 1}
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[models.EntitlementPolicy.tenant], set_=values | changed
        )
    )


async def save_plan(session: AsyncSession, values: Mapping[str, Any]) -> None:
    """Insert the plan, or replace it by a newer report."""
    row = insert(Plan).values(values)
    newer = tuple_(Plan.seen_at, Plan.seen_event_id) < tuple_(
        row.excluded.seen_at, row.excluded.seen_event_id
    )
    changed = ("name", "amount", "currency", "interval", "interval_count", "seen_at",
               "seen_event_id")  # fmt: skip
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[Plan.id],
            set_={name: getattr(row.excluded, name) for name in changed}
            | {"name": func.coalesce(row.excluded.name, Plan.name)},  # null keeps the name
            where=newer,
        )
    )


async def intend_reversal(
    session: AsyncSession, values: Mapping[str, Any]
) -> tuple[Reversal, bool]:
    """Insert the reversal unless it exists; return it, locked, and whether it is new."""
    return await tenant_rows.insert_or_get(session, Reversal, values, lock=True)


async def failed_refunds_of(session: AsyncSession, refunds: Reversal) -> Sequence[Reversal]:
    """Return the failed refunds of the charge whose refunds are `refunds`."""
    query = select(Reversal).where(
        Reversal.tenant == refunds.tenant,
        Reversal.provider == refunds.provider,
        Reversal.kind == ReversalKind.REFUND_FAILED,
        Reversal.references.overlap(refunds.references),
    )
    return (await session.scalars(query)).all()


async def refunds_with(session: AsyncSession, failed: Reversal) -> Sequence[Reversal]:
    """Return the charges' refunds, locked, that share a reference with a failed refund."""
    query = (
        select(Reversal)
        .where(
            Reversal.tenant == failed.tenant,
            Reversal.provider == failed.provider,
            Reversal.kind == ReversalKind.REFUND,
            Reversal.references.overlap(failed.references),
        )
        .order_by(Reversal.id)
        .with_for_update()
    )
    return (await session.scalars(query)).all()


async def checkout_of_reversal(session: AsyncSession, reversal: Reversal) -> Checkout | None:
    query = (
        select(Checkout)
        .join(Payment, Payment.checkout_id == Checkout.id)
        .where(
            Payment.tenant == reversal.tenant,
            Payment.provider == reversal.provider,
            Payment.references.overlap(reversal.references),
        )
        .limit(1)
    )
    return (await session.scalars(query)).first()


async def refund_reported(
    session: AsyncSession, tenant: str, reference: str | None, provider_refund_id: str
) -> Refund | None:
    """Return the refund, locked, by our reference or by the provider's id."""
    named = or_(Refund.id == (reference or ""), Refund.provider_refund_id == provider_refund_id)
    query = select(Refund).where(Refund.tenant == tenant, named).with_for_update().limit(1)
    return (await session.scalars(query)).first()


def listed_payments(query: Select[Payment]) -> Select[Payment]:
    """Restrict the query to one row for each payment: without those of which nothing but their
    links, refunds or disputes was reported, and without the payment intents of invoices, which
    Stripe reports as well and the invoice names."""
    invoice = aliased(Payment)
    is_listed_as_invoice = exists().where(
        Payment.provider == "stripe",
        invoice.tenant == Payment.tenant,
        invoice.provider == Payment.provider,
        invoice.references.contains(array([Payment.provider_payment_id])),
        invoice.paid.is_not(None),
        invoice.id != Payment.id,
    )
    return query.where(Payment.paid.is_not(None), ~is_listed_as_invoice)


async def reversals_of(
    session: AsyncSession, payments: Sequence[Payment]
) -> Mapping[str, Sequence[Reversal]]:
    """Return each payment's refunds and disputes, by the payment's id."""
    found: dict[str, list[Reversal]] = {payment.id: [] for payment in payments}
    rows = await session.execute(
        select(Payment.id, Reversal)
        .join(
            Reversal,
            and_(
                Reversal.tenant == Payment.tenant,
                Reversal.provider == Payment.provider,
                Reversal.references.overlap(Payment.references),
            ),
        )
        .where(
            Payment.id.in_(list(found)),
            # Not the total of a charge of which only a failed refund was reported so far.
            or_(
                Reversal.kind != ReversalKind.REFUND,
                func.coalesce(Reversal.total, Reversal.amount) > 0,
            ),
        )
        .order_by(Reversal.id)
    )
    for payment_id, reversal in rows:
        found[payment_id].append(reversal)
    return found


async def intend_checkout(session: AsyncSession, values: Mapping[str, Any]) -> Checkout:
    """Insert the checkout unless it exists; return it, locked."""
    row, _ = await tenant_rows.insert_or_get(session, Checkout, values, lock=True)
    return row


async def locked_checkout(session: AsyncSession, id_: str) -> Checkout:
    locking = select(Checkout).where(Checkout.id == id_).with_for_update()
    return (await session.execute(locking)).scalar_one()


async def checkouts_named(session: AsyncSession, names: Sequence[str]) -> Sequence[Checkout]:
    """Return checkouts by our ids or the providers' references, locked in order of their ids."""
    named = or_(equals_any(Checkout.id, names), equals_any(Checkout.reference, names))
    locking = select(Checkout).where(named).order_by(Checkout.id).with_for_update()
    return (await session.scalars(locking)).all()


async def paid_checkouts(
    session: AsyncSession, subscriptions: Sequence[str]
) -> Mapping[str, Sequence[Checkout]]:
    """Return each subscription's paid checkouts, by the subscription's id."""
    found: dict[str, list[Checkout]] = {id_: [] for id_ in subscriptions}
    paid = (
        select(Checkout)
        .where(equals_any(Checkout.subscription_id, subscriptions), Checkout.paid_at.is_not(None))
        .order_by(Checkout.paid_at, Checkout.id)
    )
    for checkout in await session.scalars(paid):
        found[checkout.subscription_id or ""].append(checkout)
    return found


async def due_subscriptions(
    session: AsyncSession, now: datetime, most: int
) -> Sequence[Subscription]:
    """Return due subscriptions, locked; those locked by another worker are skipped."""
    due = (
        select(Subscription)
        .where(Subscription.due_at <= now)
        .order_by(Subscription.due_at, Subscription.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(due)).all()


async def judged_otherwise(session: AsyncSession, most: int) -> Sequence[Subscription]:
    """Return subscriptions whose entitlement was decided by another version of their tenant's
    policy; locked as by `due_subscriptions`."""
    policy = models.EntitlementPolicy
    stale = (
        select(Subscription)
        .outerjoin(policy, policy.tenant == Subscription.tenant)
        .where(
            or_(
                Subscription.status.in_((Status.PAST_DUE, Status.UNPAID, Status.PAUSED)),
                Subscription.trialing,
                Subscription.collection_paused,
                Subscription.refunded,
                Subscription.disputed,
            ),
            Subscription.policy_version != func.coalesce(policy.version, 0),
        )
        .order_by(Subscription.id)
        .limit(most)
        .with_for_update(of=Subscription, skip_locked=True)
    )
    return (await session.scalars(stale)).all()


async def subscriptions_paid_by(
    session: AsyncSession, tenants: Collection[str], references: Collection[str]
) -> Collection[str]:
    """Return the ids of the subscriptions whose payments have one of these ids at the provider."""
    if not references:
        return ()
    query = select(Payment.subscription_id).where(
        equals_any(Payment.tenant, sorted(tenants)),
        Payment.references.overlap(sorted(references)),
        # A payment without a customer may name a subscription that is not known.
        Payment.subscription_id.in_(select(Subscription.id)),
    )
    return {id_ for id_ in await session.scalars(query) if id_ is not None}


async def newest_payment(session: AsyncSession, subscription: Subscription) -> Payment | None:
    """Return the subscription's newest successful payment."""
    query = (
        select(Payment)
        .where(
            Payment.tenant == subscription.tenant,
            Payment.subscription_id == subscription.id,
            Payment.paid.is_(True),
        )
        .order_by(Payment.reported_at.desc(), Payment.id)
        .limit(1)
    )
    return (await session.scalars(query)).first()


async def postpone(session: AsyncSession, id_: str, until: datetime) -> None:
    await session.execute(update(Subscription).where(Subscription.id == id_).values(due_at=until))


async def intend_refund(session: AsyncSession, values: Mapping[str, Any]) -> tuple[Refund, bool]:
    """Insert the refund unless it exists; return it, locked, and whether it is new."""
    return await tenant_rows.insert_or_get(session, Refund, values, lock=True)


async def locked_refund(session: AsyncSession, id_: str) -> Refund:
    return await session.get_one(Refund, id_, with_for_update=True)


async def customers_called(session: AsyncSession, tenant: str, name: str) -> Collection[str]:
    """Return the ids of the customers whose id, or whose reference at the provider or the shop, is
    `name`."""
    named_so = or_(Customer.id == name, Customer.provider_customer_id == name)
    meant = select(Customer.id).where(Customer.tenant == tenant, named_so)
    # Stripe names its customers itself; the checkout they came from has the shop's reference.
    payer = Checkout.terms[("customer", "reference")].astext == name
    came_by = select(Checkout.customer_id).where(
        Checkout.tenant == tenant, payer, Checkout.customer_id.is_not(None)
    )
    found = {*await session.scalars(meant), *await session.scalars(came_by)}
    return {id_ for id_ in found if id_ is not None}


async def entitling_subscriptions(
    session: AsyncSession, tenant: str, customers: Collection[str]
) -> Sequence[Subscription]:
    query = (
        select(Subscription)
        .where(
            Subscription.tenant == tenant,
            Subscription.customer_id.in_(customers),
            Subscription.phase.in_(ENTITLING),
        )
        .order_by(Subscription.created_at, Subscription.id)
    )
    return (await session.scalars(query)).all()


async def intend_command(session: AsyncSession, values: Mapping[str, Any]) -> Command:
    """Insert the command unless it exists; return it, locked."""
    row, _ = await tenant_rows.insert_or_get(session, Command, values, lock=True)
    return row


async def locked_command(session: AsyncSession, id_: str) -> Command:
    return await session.get_one(Command, id_, with_for_update=True)


async def lock_subject_of(session: AsyncSession, command: str) -> None:
    """Lock the command's subject until the end of the transaction, so that no other worker decides
    about commands on it."""
    subject = select(Command.tenant + "/" + Command.subject).where(Command.id == command)
    key = func.hashtextextended(subject.scalar_subquery(), 0)
    await session.execute(select(func.pg_advisory_xact_lock(key)))


async def other_commands(
    session: AsyncSession,
    row: Command,
    kinds: Collection[str],
    *,
    at_most: timedelta,
    quiet: timedelta,
) -> Sequence[tuple[str, datetime, bool]]:
    """Return the status, the time of creation, and whether a call may be under way, of every other
    command of these kinds on the subject of `row`. A call takes `at_most` this long; without a
    response, Stripe may still be processing it for `quiet`."""
    under_way = or_(
        and_(
            Command.begun > Command.ended,
            Command.status.in_(UNFINISHED),
            Command.updated_at > func.now() - at_most,
        ),
        Command.unanswered_at > func.now() - quiet,
    )
    query = select(Command.status, Command.created_at, under_way).where(
        Command.tenant == row.tenant,
        Command.subject == row.subject,
        Command.kind.in_(kinds),
        Command.id != row.id,
    )
    return [(status, at, bool(now)) for status, at, now in await session.execute(query)]


async def unconfirmed_commands(
    session: AsyncSession,
    tenants: Collection[str],
    *,
    subjects: Collection[str],
    ids: Collection[str],
) -> Sequence[Command]:
    """Return the commands on these subjects or with these ids that no report has confirmed, locked
    in the order of their ids."""
    query = (
        select(Command)
        .where(
            equals_any(Command.tenant, sorted(tenants)),
            or_(
                equals_any(Command.subject, sorted(subjects)),
                equals_any(Command.id, sorted(ids)),
            ),
            Command.kind.in_(CONFIRMED),
            Command.confirmed_at.is_(None),
            Command.status.in_((*UNFINISHED, CommandStatus.DONE)),
        )
        .order_by(Command.id)
        .with_for_update()
    )
    return (await session.scalars(query)).all()


async def claim_unfinished_commands(
    session: AsyncSession, untouched: timedelta, most: int
) -> Sequence[tuple[str, str]]:
    """Return the ids and tenants of commands that have been unfinished and `untouched` for this
    long, and mark them as touched; those locked by another worker are skipped."""
    chosen = (
        select(Command.id)
        .where(Command.status.in_(UNFINISHED), Command.updated_at < func.now() - untouched)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    claiming = (
        update(Command)
        .where(Command.id.in_(chosen))
        .values(updated_at=func.now())
        .returning(Command.id, Command.tenant)
    )
    return [(id_, tenant) for id_, tenant in await session.execute(claiming)]


async def checkout(session: AsyncSession, id_: str) -> Checkout | None:
    return await session.get(Checkout, id_)

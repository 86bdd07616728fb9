"""SQL queries of the subscription service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.subscriptions import Status
from common.db.bulk import equals_any
from subscription import models
from subscription.models import Checkout, Payment, Plan, Refund, Reversal, Subscription
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
    changed = ("name", "amount", "currency", "interval", "seen_at", "seen_event_id")
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[Plan.id],
            set_={name: getattr(row.excluded, name) for name in changed}
            | {"name": func.coalesce(row.excluded.name, Plan.name)},  # null keeps the name
            where=newer,
        )
    )


async def save_reversal(session: AsyncSession, values: Mapping[str, Any]) -> None:
    """Insert the reversal or raise its amount: providers report the total so far, in any order."""
    row = insert(Reversal).values(values)
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[Reversal.id],
            set_={
                "amount": func.greatest(Reversal.amount, row.excluded.amount),
                "reported_at": func.least(Reversal.reported_at, row.excluded.reported_at),
            },
        )
    )


async def refund_reported(
    session: AsyncSession, tenant: str, reference: str | None, provider_refund_id: str
) -> Refund | None:
    """Return the refund, locked, by our reference or by the provider's id."""
    named = or_(Refund.id == (reference or ""), Refund.provider_refund_id == provider_refund_id)
    query = select(Refund).where(Refund.tenant == tenant, named).with_for_update().limit(1)
    return (await session.scalars(query)).first()


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
        .where(Payment.id.in_(list(found)))
        .order_by(Reversal.id)
    )
    for payment_id, reversal in rows:
        found[payment_id].append(reversal)
    return found


async def intend_checkout(session: AsyncSession, values: Mapping[str, Any]) -> Checkout:
    """Insert the checkout unless it exists; return it, locked."""
    await session.execute(insert(Checkout).values(values).on_conflict_do_nothing())
    return await locked_checkout(session, values["id"])


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
            Subscription.status.in_((Status.PAST_DUE, Status.UNPAID, Status.PAUSED)),
            Subscription.policy_version != func.coalesce(policy.version, 0),
        )
        .order_by(Subscription.id)
        .limit(most)
        .with_for_update(of=Subscription, skip_locked=True)
    )
    return (await session.scalars(stale)).all()


async def postpone(session: AsyncSession, id_: str, until: datetime) -> None:
    await session.execute(update(Subscription).where(Subscription.id == id_).values(due_at=until))


async def checkout(session: AsyncSession, id_: str) -> Checkout | None:
    return await session.get(Checkout, id_)

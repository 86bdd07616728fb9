"""SQL of payouts, recipients, transfers and controls. `ledger/repository.py` has that of the audit
log, the ledger, the balances and the discrepancies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from common.db import tenant_rows
from common.db.bulk import columns_of, equals_any, insert_rows
from payouts.domain import State
from payouts.models import (
    Attempt,
    Balance,
    Batch,
    DailyReport,
    Payout,
    Recipient,
    Recovery,
    TenantControl,
    Transfer,
)

_PAGE = 500


async def lock_payouts(session: AsyncSession, ids: Sequence[str]) -> Mapping[str, Payout]:
    """Lock the payouts in the order of their ids, the common lock order."""
    query = select(Payout).where(equals_any(Payout.id, sorted({*ids}))).order_by(Payout.id)
    # Read the current row, even if the session read it before the lock.
    fresh = query.with_for_update().execution_options(populate_existing=True)
    return {row.id: row for row in (await session.scalars(fresh)).all()}


async def payouts(session: AsyncSession, ids: Iterable[str]) -> Mapping[str, Payout]:
    """Return the payouts without locking them, of any tenant."""
    query = select(Payout).where(equals_any(Payout.id, sorted({*ids})))
    return {row.id: row for row in (await session.scalars(query)).all()}


async def owners_of(
    session: AsyncSession, provider: str, transfer_ids: Sequence[str]
) -> Mapping[str, str]:
    """Return the ids of the payouts, of any tenant, that own these transfers of the provider."""
    query = select(Transfer.transfer_id, Transfer.payout_id).where(
        Transfer.provider == provider,
        Transfer.payout_id.is_not(None),
        equals_any(Transfer.transfer_id, sorted({*transfer_ids})),
    )
    return {id_: payout for id_, payout in (await session.execute(query)).all() if payout}


async def recipients(session: AsyncSession, ids: Sequence[str]) -> Mapping[str, Recipient]:
    found = await session.scalars(select(Recipient).where(equals_any(Recipient.id, sorted({*ids}))))
    return {row.id: row for row in found.all()}


async def lock_recipients(session: AsyncSession, ids: Sequence[str]) -> None:
    query = select(Recipient).where(equals_any(Recipient.id, sorted({*ids}))).order_by(Recipient.id)
    locking = query.with_for_update().execution_options(populate_existing=True)
    tenant_rows.pin(session, (await session.scalars(locking)).all())


async def hold_recipient(session: AsyncSession, id_: str) -> None:
    """Lock the recipient (shared), so that it does not change before the commit: its destination in
    particular."""
    held = {"read": True}
    await session.get(Recipient, id_, with_for_update=held, populate_existing=True)


async def attempts_of(session: AsyncSession, ids: Sequence[str]) -> Mapping[str, list[Attempt]]:
    """Return the attempts by payout, the oldest first."""
    query = select(Attempt).where(equals_any(Attempt.payout_id, sorted({*ids})))
    by_payout: dict[str, list[Attempt]] = {id_: [] for id_ in ids}
    for attempt in (await session.scalars(query.order_by(Attempt.number))).all():
        by_payout[attempt.payout_id].append(attempt)
    return by_payout


async def transfers_of(session: AsyncSession, ids: Sequence[str]) -> Mapping[str, list[Transfer]]:
    """Return all known transfers by (locked) payout: they change only under its lock."""
    query = select(Transfer).where(equals_any(Transfer.payout_id, sorted({*ids})))
    fresh = query.order_by(Transfer.seen_at, Transfer.transfer_id)
    by_payout: dict[str, list[Transfer]] = {id_: [] for id_ in ids}
    for transfer in (await session.scalars(fresh)).all():
        by_payout[transfer.payout_id or ""].append(transfer)
    return by_payout


async def lock_controls(
    session: AsyncSession, tenants: Sequence[str]
) -> Mapping[str, TenantControl]:
    """Lock the tenants' controls (shared) until the commit: the emergency stop waits for
    transactions that read it before, and no intent to send is committed after it."""
    query = select(TenantControl).where(equals_any(TenantControl.tenant, sorted({*tenants})))
    found = await session.scalars(query.with_for_update(read=True))
    return {row.tenant: row for row in found.all()}


async def ensure_tenant(session: AsyncSession, tenant: str) -> None:
    """Insert the tenant's row if it is missing, so that `lock_controls` can lock it."""
    await session.execute(insert(TenantControl).values(tenant=tenant).on_conflict_do_nothing())


AccountKey = tuple[str, str, str]
"""Tenant, provider and the account's name."""


async def set_recoveries(session: AsyncSession, tenant: str, days: Sequence[Recovery]) -> None:
    """Replace the days of the tenant's accounts that have to be reconciled."""
    await session.execute(delete(Recovery).where(Recovery.tenant == tenant))
    session.add_all(days)
    await session.flush()


async def recoveries(session: AsyncSession, tenant: str) -> Sequence[Recovery]:
    query = select(Recovery).where(Recovery.tenant == tenant)
    ordered = query.order_by(Recovery.provider, Recovery.account, Recovery.day)
    return (await session.scalars(ordered)).all()


async def recoveries_due(session: AsyncSession, before: datetime, limit: int) -> Sequence[Recovery]:
    """Lock and return the recoveries that were requested before this time (UTC) and are still
    open."""
    query = select(Recovery).where(Recovery.requested_at < before).order_by(Recovery.requested_at)
    locking = query.limit(limit).with_for_update(skip_locked=True)
    return (await session.scalars(locking)).all()


async def is_recovering(session: AsyncSession, account: AccountKey, day: date) -> bool:
    return await session.get(Recovery, (*account, day)) is not None


async def settle_recovery(
    session: AsyncSession, account: AccountKey, day: date, fault: str | None
) -> bool:
    """Record that the day was compared: close its recovery, or store the fault. Return whether it
    was the tenant's last one."""
    tenant, provider, name = account
    await serialize_on(session, f"recoveries/{tenant}")
    this = and_(
        Recovery.tenant == tenant,
        Recovery.provider == provider,
        Recovery.account == name,
        Recovery.day == day,
    )
    if fault is not None:
        await session.execute(update(Recovery).where(this).values(fault=fault))
        return False
    settled = await session.execute(delete(Recovery).where(this).returning(Recovery.day))
    return bool(settled.all()) and not await recoveries(session, tenant)


async def is_about_to_send(session: AsyncSession, tenant: str, within: timedelta) -> bool:
    """Return whether an intent of the tenant, not older than `within`, may still be acted upon."""
    fresh = (
        select(Attempt.id)
        .join(Payout, Payout.id == Attempt.payout_id)
        .where(
            Payout.tenant == tenant,
            Payout.state == State.SUBMITTING,
            Attempt.number == Payout.attempts,
            Attempt.started_at > func.clock_timestamp() - within,
        )
    )
    return await session.scalar(fresh.limit(1)) is not None


async def unreconciled(session: AsyncSession) -> Collection[AccountKey]:
    """Return the accounts whose payouts a restored database may have forgotten."""
    query = select(Recovery.tenant, Recovery.provider, Recovery.account).distinct()
    return {(row.tenant, row.provider, row.account) for row in (await session.execute(query)).all()}


def _reconciled(table: type[Payout | Recipient]) -> ColumnElement[bool]:
    """Return the condition that a restored database has forgotten nothing of the row's account."""
    of_account = select(Recovery.tenant).where(
        Recovery.tenant == table.tenant,
        Recovery.provider == table.provider,
        Recovery.account == table.account,
    )
    return ~of_account.exists()


def select_due(states: Sequence[State], now: datetime, limit: int) -> Select[Payout]:
    """Select and lock due payouts, the longest waiting first. Skip those that are locked elsewhere.
    Skip those that would be sent, if the tenant's emergency stop is on or the account is not
    reconciled after a restore."""
    halted = select(TenantControl.tenant).where(TenantControl.paused)
    sends = [str(State.APPROVED), str(State.FAILED)]
    may_send = and_(Payout.tenant.not_in(halted), _reconciled(Payout))
    return (
        select(Payout)
        .where(Payout.state.in_([str(each) for each in states]), Payout.next_action_at <= now)
        .where(or_(Payout.state.not_in(sends), may_send))
        .order_by(Payout.next_action_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


async def serialize_on(session: AsyncSession, id_: str) -> None:
    """Lock this id until the commit, so that concurrent requests for it run one after the other."""
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:id, 0))"), {"id": id_}
    )


async def lock_unsent(session: AsyncSession, recipients: Sequence[str]) -> Sequence[Payout]:
    """Lock and return the payouts of these recipients that are paid from the balance and were never
    sent."""
    query = (
        select(Payout)
        .where(
            equals_any(Payout.recipient_id, recipients),
            Payout.state.in_((State.SCHEDULED, State.APPROVED)),
            Payout.attempts == 0,
            Payout.funding == "balance",
        )
        .order_by(Payout.id)
        .with_for_update()
    )
    return (await session.scalars(query)).all()


TransferKey = tuple[str, str, str, str]
"""Tenant, provider, account and the provider's id."""


async def lock_transfers(
    session: AsyncSession, keys: Iterable[TransferKey]
) -> Mapping[TransferKey, Transfer]:
    """Lock the transfers with these keys, and insert those that are missing, in the common lock
    order: before any payout is locked, and in the order of the keys."""
    values = [dict(zip(_TRANSFER_COLUMNS, key, strict=True)) for key in sorted({*keys})]
    if not values:
        return {}
    locking = _INSERT_TRANSFERS.on_conflict_do_update(
        index_elements=_TRANSFER_COLUMNS,
        set_={"transfer_id": _INSERT_TRANSFERS.excluded.transfer_id},
    ).returning(Transfer)
    statement = select(Transfer).from_statement(locking)
    found = await session.scalars(statement, columns_of(values, _TRANSFER_COLUMNS))
    return {(row.tenant, row.provider, row.account, row.transfer_id): row for row in found.all()}


_TRANSFER_COLUMNS = ("tenant", "provider", "account", "transfer_id")
_INSERT_TRANSFERS = insert_rows(Transfer.__table__, _TRANSFER_COLUMNS)  # type: ignore[arg-type]


async def recipients_due(session: AsyncSession, now: datetime, limit: int) -> Sequence[Recipient]:
    """Lock and return recipients whose schedule has something to pay: its time has come, or the
    balance reached the threshold. Skip tenants that are paused, because after a restore the
    reversals of earnings may not have been received yet, and recipients whose payouts a restored
    database may have forgotten."""
    enough = (
        select(Balance.recipient_id)
        .where(
            Balance.recipient_id == Recipient.id,
            Balance.currency == Recipient.currency,
            Balance.available >= Recipient.schedule["minimum"].as_integer(),
        )
        .exists()
    )
    at_threshold = and_(
        Recipient.schedule["kind"].as_string() == "threshold",
        Recipient.next_payout_at.is_(None),
        enough,
    )
    query = (
        select(Recipient)
        .where(or_(Recipient.next_payout_at <= now, at_threshold), ~Recipient.blocked)
        .where(_reconciled(Recipient))
        .where(Recipient.tenant.not_in(select(TenantControl.tenant).where(TenantControl.paused)))
        .order_by(Recipient.next_payout_at, Recipient.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(query)).all()


async def recipients_by_handle(
    session: AsyncSession, provider: str, handles: Sequence[str]
) -> Mapping[tuple[str, str], Recipient]:
    """Return recipients by tenant and the provider's identifier."""
    query = select(Recipient).where(
        Recipient.provider == provider, equals_any(Recipient.provider_ref, sorted({*handles}))
    )
    return {(row.tenant, row.provider_ref): row for row in (await session.scalars(query)).all()}


async def recipients_at(session: AsyncSession, account: AccountKey) -> Sequence[Recipient]:
    """Return the recipients whom the account pays."""
    tenant, provider, name = account
    query = select(Recipient).where(
        Recipient.tenant == tenant, Recipient.provider == provider, Recipient.account == name
    )
    return (await session.scalars(query)).all()


async def sent_between(
    session: AsyncSession, account: AccountKey, first: datetime, last: datetime
) -> AsyncIterator[tuple[Payout, Attempt, datetime]]:
    """Yield the account's payouts whose last attempt began in this period, each with that attempt
    and the time at which its first attempt began."""
    tenant, provider, name = account
    each = aliased(Attempt)
    begun = select(func.min(each.started_at)).where(each.payout_id == Payout.id).scalar_subquery()
    after = ""
    while True:
        query = (
            select(Payout, Attempt, begun)
            .join(Attempt, (Attempt.payout_id == Payout.id) & (Attempt.number == Payout.attempts))
            .where(
                Payout.tenant == tenant,
                Payout.provider == provider,
                Payout.account == name,
                Attempt.started_at >= first,
                Attempt.started_at < last,
                Payout.id > after,
            )
            .order_by(Payout.id)
            .limit(_PAGE)
        )
        page = (await session.execute(query)).all()
        for row, attempt, at in page:
            yield row, attempt, at
        if len(page) < _PAGE:
            return
        after = page[-1][0].id


async def intend_recipient(
    session: AsyncSession, values: Mapping[str, Any]
) -> tuple[Recipient, bool]:
    """Insert the recipient unless it exists; return it, and whether it is new."""
    return await tenant_rows.insert_or_get(session, Recipient, values)


async def intend_batch(session: AsyncSession, values: Mapping[str, Any]) -> tuple[Batch, bool]:
    """Insert the batch unless it exists; return it, and whether it is new."""
    return await tenant_rows.insert_or_get(session, Batch, values)


async def tenants(session: AsyncSession) -> Sequence[str]:
    """Return the tenants that have payouts."""
    return (await session.scalars(select(Payout.tenant).distinct())).all()


async def delete_foreign_transfers(session: AsyncSession, keep: timedelta) -> int:
    """Delete transfers of no payout that were not seen for `keep`; return how many there were."""
    deleting = (
        delete(Transfer)
        .where(Transfer.seen_at < func.now() - keep, Transfer.payout_id.is_(None))
        .returning(Transfer.transfer_id)
    )
    return len((await session.execute(deleting)).all())


async def longest_unanswered(session: AsyncSession) -> float:
    """Return the age (seconds) of the oldest attempt with an unknown outcome, of payouts that may
    still be sent again; 0 if there is none. The payout's own row is no measure: every status check
    and every new attempt updates it."""
    failed = aliased(Attempt)
    last_failure = select(func.max(failed.number)).where(
        failed.payout_id == Attempt.payout_id, failed.outcome == "refused"
    )
    age = (
        select(func.extract("epoch", func.now() - func.min(Attempt.started_at)))
        .join(Payout, Payout.id == Attempt.payout_id)
        .where(
            Payout.state.in_((State.APPROVED, State.SUBMITTING, State.UNKNOWN)),
            Attempt.outcome == "unknown",
            Attempt.transfer_status.is_(None),
            Attempt.number > func.coalesce(last_failure.scalar_subquery(), 0),
        )
    )
    return float(await session.scalar(age) or 0)


async def save_report(
    session: AsyncSession, tenant: str, day: date, report: Mapping[str, Any]
) -> None:
    """Store the day's report, replacing an earlier one."""
    row = insert(DailyReport).values(tenant=tenant, day=day, report=report)
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[DailyReport.tenant, DailyReport.day],
            set_={"report": report, "written_at": func.now()},
        )
    )


async def sums_by_state(
    session: AsyncSession, tenant: str, first: datetime, last: datetime
) -> Sequence[tuple[str, str, int, int]]:
    """Return the currency, the state, the number and the sum (minor units) of the payouts that
    changed last from `first` to `last`, the end excluded."""
    query = (
        select(Payout.currency, Payout.state, func.count(), func.sum(Payout.amount))
        .where(Payout.tenant == tenant, Payout.updated_at >= first, Payout.updated_at < last)
        .group_by(Payout.currency, Payout.state)
        .order_by(Payout.currency, Payout.state)
    )
    found = (await session.execute(query)).all()
    return [(currency, state, count, int(amount)) for currency, state, count, amount in found]


def created_since(tenant: str, since: datetime) -> ColumnElement[bool]:
    return and_(Payout.tenant == tenant, Payout.created_at >= since)


async def seconds_to_paid(
    session: AsyncSession, which: ColumnElement[bool]
) -> tuple[float | None, float | None]:
    """Return the median and the 95th percentile of the seconds from creation to payment."""
    took = func.extract("epoch", Payout.paid_at - Payout.created_at)
    p50, p95 = (
        await session.execute(
            select(
                func.percentile_cont(0.5).within_group(took),
                func.percentile_cont(0.95).within_group(took),
            ).where(which, Payout.paid_at.is_not(None))
        )
    ).one()
    return p50, p95


async def paid_volumes(
    session: AsyncSession, which: ColumnElement[bool]
) -> Sequence[tuple[str, int, int]]:
    """Return the currency, the number and the sum (minor units) of paid payouts."""
    query = (
        select(Payout.currency, func.count(), func.sum(Payout.amount))
        .where(which, Payout.state == State.PAID)
        .group_by(Payout.currency)
        .order_by(Payout.currency)
    )
    found = (await session.execute(query)).all()
    return [(currency, count, int(amount)) for currency, count, amount in found]


async def held(session: AsyncSession, tenant: str) -> int:
    query = select(func.count()).where(Payout.tenant == tenant, Payout.held)
    return await session.scalar(query) or 0


async def oldest_due_at(session: AsyncSession, tenant: str) -> datetime | None:
    """Return when the payout became due that has waited longest to be sent."""
    query = select(func.min(Payout.due_at)).where(
        Payout.tenant == tenant,
        Payout.state == State.APPROVED,
        ~Payout.held,
        Payout.due_at <= func.now(),
    )
    due_at: datetime | None = await session.scalar(query)
    return due_at


def select_created(tenant: str, since: datetime, until: datetime) -> Select[Payout]:
    """Return a query for the payouts created from `since` to `until`, the end excluded."""
    return select(Payout).where(created_since(tenant, since), Payout.created_at < until)


async def counts(session: AsyncSession, *which: ColumnElement[bool]) -> dict[str, int]:
    """Count payouts by state."""
    query = select(Payout.state, func.count()).where(*which).group_by(Payout.state)
    return {row[0]: row[1] for row in (await session.execute(query)).all()}


async def set_control(
    session: AsyncSession, tenant: str, actor: str, reason: str, values: Mapping[str, Any]
) -> TenantControl:
    await ensure_tenant(session, tenant)
    changed = await session.scalars(
        update(TenantControl)
        .where(TenantControl.tenant == tenant)
        .values(**values, actor=actor, reason=reason, changed_at=func.clock_timestamp())
        .returning(TenantControl)
    )
    return changed.one()

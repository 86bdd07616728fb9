"""SQL of the payouts service: its reads, locks and control rows. `ledger/unit_of_work.py` writes
payouts and the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.db import tenant_rows
from common.db.bulk import columns_of, equals_any, insert_rows
from payouts.domain import State
from payouts.ledger.audit_log import NOBODY, PAYBUS
from payouts.ledger.entries import LedgerAccount
from payouts.models import (
    Attempt,
    AuditEntry,
    Balance,
    LedgerEntry,
    Payout,
    Recipient,
    Recovery,
    TenantControl,
    Transfer,
)


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


async def available_balances(
    session: AsyncSession, ids: Sequence[str]
) -> Mapping[tuple[str, str], int]:
    """Return the available balances (minor units) by recipient and currency; 0 where none is known.
    The balances are locked, all together and in the order of the recipients' ids."""
    query = (
        select(Balance)
        .where(equals_any(Balance.recipient_id, sorted({*ids})))
        .order_by(Balance.recipient_id, Balance.currency)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    found = await session.scalars(query)
    return Counter({(row.recipient_id, row.currency): row.available for row in found.all()})


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


async def counts(session: AsyncSession, *which: ColumnElement[bool]) -> dict[str, int]:
    """Count payouts by state."""
    query = select(Payout.state, func.count()).where(*which).group_by(Payout.state)
    return {row[0]: row[1] for row in (await session.execute(query)).all()}


async def audit_of(session: AsyncSession, subject: str, limit: int) -> Sequence[AuditEntry]:
    query = select(AuditEntry).where(AuditEntry.subject == subject)
    return (await session.scalars(query.order_by(AuditEntry.position.desc()).limit(limit))).all()


async def creditors(session: AsyncSession, recipient: Recipient, there: int) -> list[str]:
    """Return the users whose credits make up the recipient's available balance of `there` minor
    units.

    Money is paid as from a stack: the newest credit leaves first. Money taken back was never a
    user's credit, because users can't take back, so it removes no user. Amounts that went to a
    payout and came back when it was cancelled or returned, or that a payout received and passed on,
    count as if they had not moved; the creditors and the creator of a payout that gave money back
    are included. Too many users are named rather than too few.
    """
    ledger, available = LedgerEntry, LedgerAccount.AVAILABLE
    moved = (
        select(ledger.amount, ledger.target, AuditEntry.actor, AuditEntry.role, Payout)
        .join(AuditEntry, AuditEntry.position == ledger.audit_position)
        .outerjoin(Payout, Payout.id == ledger.payout_id)
        .where(
            ledger.recipient_id == recipient.id,
            ledger.currency == recipient.currency,
            or_(ledger.target == available, ledger.source == available),
        )
        .order_by(ledger.id.desc())
    )
    taken_back = await session.scalar(
        select(func.coalesce(func.sum(ledger.amount), 0)).where(
            ledger.recipient_id == recipient.id,
            ledger.currency == recipient.currency,
            ledger.payout_id.is_(None),
            ledger.source == available,
        )
    )
    found: set[str] = set()
    gone, given_back, left_with = 0, Counter[str](), Counter[str]()
    streamed = await session.stream(moved.execution_options(yield_per=200))
    async for amount, target, actor, role, payout in streamed:
        if there <= 0:
            break
        if target != available:
            if payout is None:
                continue  # counted in taken_back
            back = min(amount, given_back[payout.id])
            gone += amount - back
            given_back[payout.id] -= back
            left_with[payout.id] += amount - back
        elif payout is not None:
            given = min(amount, left_with[payout.id])
            left_with[payout.id] -= given
            gone -= min(gone, given)
            given_back[payout.id] += amount - given
            if amount > given:
                found |= {*payout.credited_by, payout.created_by}
        else:
            left = amount
            if role in NOBODY:
                back = min(left, taken_back)
                taken_back, left = taken_back - back, left - back
            stays = max(0, left - gone)
            gone, there = max(0, gone - left), there - stays
            if stays and role not in NOBODY:
                found.add(actor)
    await streamed.close()
    return sorted(found - {PAYBUS.name})


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

"""SQL of the audit log, the ledger, the balances and the discrepancies."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import Select, and_, case, func, null, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.db.bulk import columns_of, equals_any, insert_rows
from payouts.ledger.audit_log import NOBODY, PAYBUS
from payouts.ledger.entries import LedgerAccount
from payouts.models import (
    AuditEntry,
    AuditHead,
    Balance,
    Discrepancy,
    LedgerEntry,
    Payout,
    Recipient,
)

_PAGE = 2_000
_MOST_FAULTS = 20

AUDIT_COLUMNS = (
    "position", "at", "tenant", "actor", "role", "action", "subject", "before", "after", "reason",
    "data", "hash",
)  # fmt: skip
_LEDGER_COLUMNS = (
    "tenant", "recipient_id", "payout_id", "currency", "source", "target", "amount",
    "audit_position", "at",
)  # fmt: skip
_DISCREPANCY_COLUMNS = (
    "id", "tenant", "day", "provider", "account", "kind", "payout_id", "transfer_id", "ours",
    "theirs",
)  # fmt: skip
_INSERT_AUDIT = insert_rows(AuditEntry.__table__, AUDIT_COLUMNS)  # type: ignore[arg-type]
_INSERT_LEDGER = insert_rows(LedgerEntry.__table__, _LEDGER_COLUMNS)  # type: ignore[arg-type]
_ADD_TO_BALANCES = text(
    """
    INSERT INTO balances AS b
           (recipient_id, currency, tenant, platform, available, pending, paid, fees)
    SELECT * FROM unnest(
           cast(:recipient_id AS text[]), cast(:currency AS text[]), cast(:tenant AS text[]),
           cast(:platform AS bigint[]), cast(:available AS bigint[]), cast(:pending AS bigint[]),
           cast(:paid AS bigint[]), cast(:fees AS bigint[]))
    ON CONFLICT (recipient_id, currency) DO UPDATE
       SET platform = b.platform + excluded.platform, available = b.available + excluded.available,
           pending = b.pending + excluded.pending, paid = b.paid + excluded.paid,
           fees = b.fees + excluded.fees
    """
)


async def head(session: AsyncSession) -> tuple[int, str]:
    """Return the position and the hash of the audit log's last entry."""
    position, hash_ = (await session.execute(select(AuditHead.position, AuditHead.hash))).one()
    return position, hash_


async def lock_head(session: AsyncSession) -> tuple[int, str]:
    """Return the head, locked: until the commit every other writer to the log waits."""
    locking = select(AuditHead.position, AuditHead.hash).with_for_update()
    position, hash_ = (await session.execute(locking)).one()
    return position, hash_


async def append(
    session: AsyncSession,
    audit: Sequence[Mapping[str, Any]],
    ledger: Sequence[Mapping[str, Any]],
) -> None:
    """Append to the audit log, whose head is locked, and to the ledger."""
    await session.execute(_INSERT_AUDIT, columns_of(audit, AUDIT_COLUMNS))
    if ledger:
        await session.execute(_INSERT_LEDGER, columns_of(ledger, _LEDGER_COLUMNS))
    last = audit[-1]
    await session.execute(update(AuditHead).values(position=last["position"], hash=last["hash"]))


async def add_to_balances(session: AsyncSession, columns: Mapping[str, Sequence[Any]]) -> None:
    """Add the amounts to the balances, inserting the missing ones. The rows are in the common
    order: by recipient and currency."""
    await session.execute(_ADD_TO_BALANCES, columns)


async def pages_of_log(session: AsyncSession) -> AsyncIterator[Sequence[AuditEntry]]:
    """Yield the whole audit log in pages, the oldest first."""
    after = -1
    while True:
        query = select(AuditEntry).where(AuditEntry.position > after)
        page = (await session.scalars(query.order_by(AuditEntry.position).limit(_PAGE))).all()
        if page:
            after = page[-1].position
            yield page
            session.expunge_all()
        if len(page) < _PAGE:
            return


async def ledger_between(session: AsyncSession, first: int, last: int) -> Sequence[LedgerEntry]:
    """Return the ledger entries of these audit positions, both included."""
    query = (
        select(LedgerEntry)
        .where(LedgerEntry.audit_position >= first, LedgerEntry.audit_position <= last)
        .order_by(LedgerEntry.id)
    )
    return (await session.scalars(query)).all()


async def positions_outside(session: AsyncSession, last: int) -> Collection[int]:
    """Return audit positions of ledger entries that are not from 1 to `last`: at most 20."""
    query = select(LedgerEntry.audit_position).where(
        (LedgerEntry.audit_position > last) | (LedgerEntry.audit_position < 1)
    )
    return set((await session.scalars(query.limit(_MOST_FAULTS))).all())


async def all_balances(session: AsyncSession) -> AsyncIterator[Balance]:
    async for row in await session.stream_scalars(select(Balance).order_by(Balance.recipient_id)):
        yield row


async def balances_of(session: AsyncSession, recipient: str) -> Sequence[Balance]:
    return (await session.scalars(select(Balance).where(Balance.recipient_id == recipient))).all()


async def newest_entries(
    session: AsyncSession, recipient: str, limit: int
) -> Sequence[LedgerEntry]:
    query = select(LedgerEntry).where(LedgerEntry.recipient_id == recipient)
    return (await session.scalars(query.order_by(LedgerEntry.id.desc()).limit(limit))).all()


async def sums_of_balances(session: AsyncSession, tenant: str) -> Sequence[Mapping[str, int | str]]:
    """Return the tenant's balances (minor units) by currency."""
    names = ("platform", "available", "pending", "paid", "fees")
    query = (
        select(Balance.currency, *(func.sum(getattr(Balance, name)) for name in names))
        .where(Balance.tenant == tenant)
        .group_by(Balance.currency)
        .order_by(Balance.currency)
    )
    return [
        dict(zip(names, map(int, amounts), strict=True)) | {"currency": currency}
        for currency, *amounts in (await session.execute(query)).all()
    ]


async def audit_of(session: AsyncSession, subject: str, limit: int) -> Sequence[AuditEntry]:
    query = select(AuditEntry).where(AuditEntry.subject == subject)
    return (await session.scalars(query.order_by(AuditEntry.position.desc()).limit(limit))).all()


def select_actions(tenant: str, subject: str | None, actor: str | None) -> Select[AuditEntry]:
    """Return a query for the tenant's actions; a None filter is ignored."""
    query = select(AuditEntry).where(AuditEntry.tenant == tenant)
    if subject is not None:
        query = query.where(AuditEntry.subject == subject)
    if actor is not None:
        query = query.where(AuditEntry.actor == actor)
    return query


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


async def keep_discrepancy(session: AsyncSession, found: Discrepancy) -> None:
    """Store the discrepancy. One that is stored already is opened again, unless a user has resolved
    it and both sides are still the same."""
    row = insert(Discrepancy).values({name: getattr(found, name) for name in _DISCREPANCY_COLUMNS})
    dealt_with = and_(
        Discrepancy.resolved_by.is_not(None),
        Discrepancy.ours == row.excluded.ours,
        Discrepancy.theirs == row.excluded.theirs,
    )
    await session.execute(
        row.on_conflict_do_update(
            index_elements=[Discrepancy.id],
            set_={
                "ours": row.excluded.ours,
                "theirs": row.excluded.theirs,
                "resolved_at": case((dealt_with, Discrepancy.resolved_at), else_=null()),
                "resolved_by": case((dealt_with, Discrepancy.resolved_by), else_=null()),
            },
        )
    )


async def resolve_discrepancies(
    session: AsyncSession,
    account: tuple[str, str, str],
    day: date,
    now: datetime,
    *,
    checked: Collection[str],
    kinds_kept: Collection[str],
    found: Collection[str],
) -> None:
    """Resolve the discrepancies of the day at the account (tenant, provider and name), of a payout
    in `checked` or of none, except those with the ids `found` and of the `kinds_kept`."""
    tenant, provider, name = account
    await session.execute(
        update(Discrepancy)
        .where(
            Discrepancy.tenant == tenant,
            Discrepancy.day == day,
            Discrepancy.provider == provider,
            Discrepancy.account == name,
            or_(Discrepancy.resolved_at.is_(None), Discrepancy.resolved_by.is_not(None)),
            Discrepancy.kind.not_in(kinds_kept),
            or_(Discrepancy.payout_id.is_(None), Discrepancy.payout_id.in_(checked)),
            Discrepancy.id.not_in(found),
        )
        .values(resolved_at=func.coalesce(Discrepancy.resolved_at, now), resolved_by=None)
    )


async def open_discrepancies(session: AsyncSession, tenant: str | None = None) -> int:
    """Return how many discrepancies are open, of the tenant or of all."""
    query = select(func.count(Discrepancy.id)).where(Discrepancy.resolved_at.is_(None))
    if tenant is not None:
        query = query.where(Discrepancy.tenant == tenant)
    return await session.scalar(query) or 0

"""What a provider and the ledger say differently: kept once, and open until both say the same again
or a person has dealt with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import date, datetime

from sqlalchemy import and_, case, func, null, or_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import derived_id
from payouts.accounts import Account
from payouts.models import Difference, Payout

DOUBLED = "doubled"
"""More than one transfer of a payout moves money: only a person resolves that."""
DESTINATION = "destination"
"""A payout's transfer went elsewhere than it was sent: likewise."""

_COLUMNS = (
    "id", "tenant", "day", "provider", "account", "kind", "payout_id", "transfer_id", "ours",
    "theirs",
)  # fmt: skip


def of_payout(
    row: Payout, day: date, kind: str, transfer_id: str | None, ours: str, theirs: str
) -> Difference:
    return Difference(
        id=derived_id("differences", row.id, kind, transfer_id or ""),
        tenant=row.tenant,
        day=day,
        provider=row.provider,
        account=row.account,
        kind=kind,
        payout_id=row.id,
        transfer_id=transfer_id,
        ours=ours,
        theirs=theirs,
    )


def not_ours(account: Account, day: date, transfer_id: str, theirs: str) -> Difference:
    """A transfer at the provider that no payout of ours made."""
    kind = "not ours"
    return Difference(
        id=derived_id("differences", account.path, kind, transfer_id),
        tenant=account.tenant,
        day=day,
        provider=account.provider,
        account=account.name,
        kind=kind,
        payout_id=None,
        transfer_id=transfer_id,
        ours="none",
        theirs=theirs,
    )


async def keep(session: AsyncSession, found: Iterable[Difference]) -> None:
    """Those that are there already are open again, but for what a person has resolved and of which
    both sides still say the same."""
    for each in sorted(found, key=lambda difference: difference.id):
        row = insert(Difference).values({name: getattr(each, name) for name in _COLUMNS})
        dealt_with = and_(
            Difference.resolved_by.is_not(None),
            Difference.ours == row.excluded.ours,
            Difference.theirs == row.excluded.theirs,
        )
        await session.execute(
            row.on_conflict_do_update(
                index_elements=[Difference.id],
                set_={
                    "ours": row.excluded.ours,
                    "theirs": row.excluded.theirs,
                    "resolved_at": case((dealt_with, Difference.resolved_at), else_=null()),
                    "resolved_by": case((dealt_with, Difference.resolved_by), else_=null()),
                },
            )
        )


async def resolve_others(
    session: AsyncSession,
    account: Account,
    day: date,
    found: Collection[Difference],
    *,
    checked: Collection[str],
    now: datetime,
) -> None:
    """Those of the day that were not found any more, of a payout that was `checked` or of none;
    should one come back, it is open again, whoever had dealt with it."""
    await session.execute(
        update(Difference)
        .where(
            Difference.tenant == account.tenant,
            Difference.day == day,
            Difference.provider == account.provider,
            Difference.account == account.name,
            or_(Difference.resolved_at.is_(None), Difference.resolved_by.is_not(None)),
            Difference.kind.not_in([DOUBLED, DESTINATION]),
            or_(Difference.payout_id.is_(None), Difference.payout_id.in_(list(checked))),
            Difference.id.not_in([each.id for each in found]),
        )
        .values(resolved_at=func.coalesce(Difference.resolved_at, now), resolved_by=None)
    )

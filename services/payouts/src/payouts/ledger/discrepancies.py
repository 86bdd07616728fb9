"""Discrepancies between a provider and the ledger: stored once, and open until both agree again or
a user resolves them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import date, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import derived_id
from payouts.ledger import repository
from payouts.models import Discrepancy, Payout
from payouts.providers.registry import ProviderAccount

DOUBLED = "doubled"
"""More than one transfer of a payout moves money: only a person resolves that."""
DESTINATION = "destination"
"""A payout's transfer went elsewhere than it was sent: likewise."""


def of_payout(
    row: Payout, day: date, kind: str, transfer_id: str | None, ours: str, theirs: str
) -> Discrepancy:
    return Discrepancy(
        id=derived_id("discrepancies", row.id, kind, transfer_id or ""),
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


def not_ours(account: ProviderAccount, day: date, transfer_id: str, theirs: str) -> Discrepancy:
    """Return the discrepancy of a transfer at the provider that no payout of ours made."""
    kind = "unknown_transfer"
    return Discrepancy(
        id=derived_id("discrepancies", account.path, kind, transfer_id),
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


async def keep(session: AsyncSession, found: Iterable[Discrepancy]) -> None:
    """Store the discrepancies. One that is stored already is opened again, unless a user has
    resolved it and both sides are still the same."""
    for each in sorted(found, key=lambda discrepancy: discrepancy.id):
        await repository.keep_discrepancy(session, each)


async def resolve_others(
    session: AsyncSession,
    account: ProviderAccount,
    day: date,
    found: Collection[Discrepancy],
    *,
    checked: Collection[str],
    now: datetime,
) -> None:
    """Resolve the day's discrepancies that were not found again, of a payout in `checked` or of
    none; `doubled` and `destination` excepted. One that a user has resolved is opened again if it
    comes back."""
    await repository.resolve_discrepancies(
        session,
        account.key,
        day,
        now,
        checked=checked,
        kinds_kept=(DOUBLED, DESTINATION),
        found=[each.id for each in found],
    )

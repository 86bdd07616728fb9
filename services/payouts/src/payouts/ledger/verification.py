"""Verification that the audit log's chain, the ledger and the balances were not changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from payouts.ledger import audit_log, repository
from payouts.ledger.entries import LedgerAccount

Sums = Counter[tuple[str, str, str]]
"""By recipient, currency and account."""


@dataclass(frozen=True)
class VerificationResult:
    """Result of a verification. `faults` are sentences, the oldest entry's first; an empty list
    means that the records are intact."""

    entries: int
    ledger_entries: int
    head: tuple[int, str]
    faults: list[str]


async def verify(
    session: AsyncSession,
    *,
    expect: tuple[int, str] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
    most_faults: int = 20,
) -> VerificationResult:
    """Read and verify everything, in one snapshot. `expect` is the position and hash of a head that
    was stored elsewhere, such as a daily report's: it must be in the chain."""
    head_position, head_hash = await repository.head(session)
    faults: list[str] = []
    sums: Sums = Counter()
    position, previous, entries = 0, audit_log.FIRST_HASH, 0
    async for page in repository.pages_of_log(session):
        posted = await _ledger(session, page[0].position, page[-1].position)
        for row in page:
            position += 1
            if row.position != position:
                faults.append(f"audit {position}: missing, or the one before was added")
                position = row.position
            content = {name: getattr(row, name) for name in _CONTENT}
            if audit_log.digest(previous, content) != row.hash:
                faults.append(
                    f"audit {position} ({row.action} {row.subject}): does not fit its hash"
                )
            previous = row.hash  # as stored: a fault is reported once
            found = posted.pop(position, [])
            if found != row.data.get("ledger", []):
                faults.append(
                    f"ledger of audit {position} ({row.action} {row.subject}): "
                    f"has {found}, the log says {row.data.get('ledger', [])}"
                )
            _add(sums, found)
            entries += len(found)
            if expect is not None and position == expect[0] and row.hash != expect[1]:
                faults.append(f"audit {position}: its hash is {row.hash}, not the expected one")
        faults += [f"ledger of audit {at}: no action explains it" for at in sorted(posted)]
        progress(position, head_position)
        if len(faults) >= most_faults:
            break
    else:
        faults += _ends(head_position, head_hash, position, previous, expect)
        faults += [
            f"ledger of audit {at}: no action explains it"
            for at in sorted(await repository.positions_outside(session, position))
        ]
        faults += await _balances(session, sums)
    return VerificationResult(position, entries, (head_position, head_hash), faults[:most_faults])


_CONTENT = [name for name in repository.AUDIT_COLUMNS if name != "hash"]


async def _ledger(session: AsyncSession, first: int, last: int) -> dict[int, list[list[object]]]:
    """Return the ledger entries in the log's format, by their audit position."""
    found: dict[int, list[list[object]]] = {}
    for row in await repository.ledger_between(session, first, last):
        found.setdefault(row.audit_position, []).append(
            [row.recipient_id, row.payout_id, row.currency, row.source, row.target, row.amount]
        )
    return found


def _add(sums: Sums, entries: list[list[object]]) -> None:
    for recipient, _, currency, source, target, amount in entries:
        assert isinstance(amount, int)
        sums[str(recipient), str(currency), str(source)] -= amount
        sums[str(recipient), str(currency), str(target)] += amount


def _ends(
    head_position: int, head_hash: str, position: int, last: str, expect: tuple[int, str] | None
) -> list[str]:
    faults = []
    if (head_position, head_hash) != (position, last):
        faults.append(f"the log ends at {position}, and its head says {head_position}: cut off?")
    if expect is not None and expect[0] > position:
        faults.append(f"the log ends at {position}, before the expected {expect[0]}: cut off?")
    return faults


async def _balances(session: AsyncSession, sums: Sums) -> list[str]:
    faults = []
    seen = set()
    async for row in repository.all_balances(session):
        seen.add((row.recipient_id, row.currency))
        for account in LedgerAccount:
            kept = getattr(row, account)
            summed = sums[row.recipient_id, row.currency, account]
            if kept != summed:
                faults.append(
                    f"balance {account} of recipient {row.recipient_id}: {kept} {row.currency}, "
                    f"the ledger's sum is {summed}"
                )
    missing = {(recipient, currency) for recipient, currency, _ in sums} - seen
    faults += [
        f"balance of recipient {recipient} in {currency}: missing"
        for recipient, currency in sorted(missing)
    ]
    return faults

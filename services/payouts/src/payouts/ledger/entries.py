"""Ledger entries that a change of a payout makes. Pure.

An entry moves an amount from one account to another, so no entry can be unbalanced: over all
accounts of a recipient and currency the balances sum to zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from payouts.domain import State


class LedgerAccount(StrEnum):
    PLATFORM = "platform"  # negative: what the platform has put in, the sum of all others
    AVAILABLE = "available"  # owed to the recipient, and in no payout
    PENDING = "pending"  # in a payout that is not settled
    PAID = "paid"
    FEES = "fees"


@dataclass(frozen=True)
class Entry:
    """A ledger entry. `amount` is in minor units and greater than zero."""

    source: LedgerAccount
    target: LedgerAccount
    amount: int


Funding = Literal["direct", "balance"]
"""A `direct` payout is owed by being ordered; one from the `balance` takes what is available."""


@dataclass(frozen=True)
class PayoutAmount:
    """The amounts of one payout, in minor units. `amount` is negative if the provider takes it from
    the recipient's bank; `fee` is what is still to be charged, 0 once it was charged; `returned` is
    the part that came back before."""

    amount: int
    fee: int
    funding: Funding
    returned: int = 0

    @property
    def total(self) -> int:
        return self.amount + self.fee


def opening(sum_: PayoutAmount) -> list[Entry]:
    """Return the entries of a new payout."""
    if sum_.total < 0:
        return _turned(opening(PayoutAmount(-sum_.amount, -sum_.fee, sum_.funding)))
    entries = [Entry(LedgerAccount.AVAILABLE, LedgerAccount.PENDING, sum_.total)]
    if sum_.funding == "direct":
        entries.insert(0, Entry(LedgerAccount.PLATFORM, LedgerAccount.AVAILABLE, sum_.total))
    return entries


def correction(state: State, sum_: PayoutAmount, amount: int) -> list[Entry]:
    """Return the entries of an unsettled payout whose amount is corrected to `amount`."""
    if _place(state) is not LedgerAccount.PENDING:
        return []
    return opening(PayoutAmount(amount - sum_.amount, 0, sum_.funding))


def of_transition(before: State, after: State, sum_: PayoutAmount) -> list[Entry]:
    """Return the entries of a change of state."""
    if _place(before) is _place(after):
        return []
    if sum_.total < 0:
        return _turned(
            of_transition(before, after, PayoutAmount(-sum_.amount, -sum_.fee, sum_.funding))
        )
    found = [*_leave(before, sum_), *_enter(after, sum_)]
    return [each for each in _shortened(found) if each.amount]


def part_returned(sum_: PayoutAmount, returned: int) -> list[Entry]:
    """Return the entries of a paid payout of which `returned` came back, in total (minor units)."""
    return [Entry(LedgerAccount.PAID, LedgerAccount.AVAILABLE, returned - sum_.returned)]


def part_paid_again(sum_: PayoutAmount) -> list[Entry]:
    """Return the entries of a paid payout that is now paid by another transfer, of which nothing
    came back."""
    return (
        [Entry(LedgerAccount.AVAILABLE, LedgerAccount.PAID, sum_.returned)] if sum_.returned else []
    )


def is_pending(state: State) -> bool:
    """Return whether the payout's money is set aside and not with the recipient."""
    return _place(state) is LedgerAccount.PENDING


def _turned(entries: list[Entry]) -> list[Entry]:
    """Reverse the entries: a payout of a negative amount moves money the other way."""
    return [Entry(each.target, each.source, each.amount) for each in reversed(entries)]


def _place(state: State) -> LedgerAccount | None:
    """Return the account that holds the payout's money; None if the platform took it back."""
    match state:
        case State.PAID:
            return LedgerAccount.PAID
        case State.RETURNED:
            return LedgerAccount.AVAILABLE
        case State.CANCELLED:
            return None
        case _:
            return LedgerAccount.PENDING


def _leave(state: State, sum_: PayoutAmount) -> Iterator[Entry]:
    match _place(state):
        case LedgerAccount.PENDING:
            yield Entry(LedgerAccount.PENDING, LedgerAccount.AVAILABLE, sum_.total)
        case LedgerAccount.PAID:
            yield Entry(LedgerAccount.PAID, LedgerAccount.AVAILABLE, sum_.amount - sum_.returned)
        case None if sum_.funding == "direct":
            yield Entry(LedgerAccount.PLATFORM, LedgerAccount.AVAILABLE, sum_.total)


def _enter(state: State, sum_: PayoutAmount) -> Iterator[Entry]:
    match _place(state):
        case LedgerAccount.PENDING:
            yield Entry(LedgerAccount.AVAILABLE, LedgerAccount.PENDING, sum_.total)
        case LedgerAccount.PAID:
            yield Entry(LedgerAccount.AVAILABLE, LedgerAccount.PAID, sum_.amount)
            yield Entry(LedgerAccount.AVAILABLE, LedgerAccount.FEES, sum_.fee)
        case LedgerAccount.AVAILABLE:
            # Returned money was paid before, even if that was never reported.
            yield Entry(LedgerAccount.AVAILABLE, LedgerAccount.FEES, sum_.fee)
        case None if sum_.funding == "direct":
            yield Entry(LedgerAccount.AVAILABLE, LedgerAccount.PLATFORM, sum_.total)


def _shortened(path: list[Entry]) -> list[Entry]:
    """Merge a path through `available`: an amount that does not stay there moves directly."""
    first, rest = (path[0], path[1:]) if path else (None, [])
    through = sum(each.amount for each in rest)
    if first and rest and first.target is LedgerAccount.AVAILABLE and through == first.amount:
        return [Entry(first.source, each.target, each.amount) for each in rest]
    return path

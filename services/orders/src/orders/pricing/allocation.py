"""Division of amounts without creating or losing a unit. Pure: no I/O, no clock.

Amounts are integers in minor units. Fees are rounded once, half to even (banker's rounding, ISO
80000-1 rule B), and the parts of an amount always sum to the amount.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_BASIS_POINTS = 10_000


def allocate(amount: int, weights: Sequence[int]) -> list[int]:
    """Split `amount` in proportion to `weights` by the largest remainder; of equal remainders the
    first part gets the unit. No part exceeds its weight if `amount` is at most the sum of the
    weights.

    Raise `ValueError` for negative numbers, and for an amount without a weight to assign it to.
    """
    whole = sum(weights)
    if amount < 0 or any(weight < 0 for weight in weights) or (amount and not whole):
        raise ValueError(
            "amounts and weights must not be negative, and at least one weight must be positive"
        )
    if not amount:
        return [0] * len(weights)
    parts = [amount * weight // whole for weight in weights]
    remainders = [amount * weight % whole for weight in weights]
    largest = sorted(range(len(weights)), key=lambda index: -remainders[index])
    for index in largest[: amount - sum(parts)]:
        parts[index] += 1
    return parts


def fee(gross: int, basis_points: int) -> int:
    """Return the platform's fee on `gross`, rounded half to even. 250 basis points are 2.5 %."""
    whole, rest = divmod(gross * basis_points, _BASIS_POINTS)
    half = _BASIS_POINTS // 2
    return whole + (rest > half or (rest == half and whole % 2 == 1))


@dataclass(frozen=True)
class Share:
    """A seller's share of an order. `gross` is what the buyer pays for it, `refunded` how much of
    that was refunded, `held` how much is held back, `fee_basis_points` the platform's fee on the
    remainder."""

    gross: int
    refunded: int
    fee_basis_points: int
    held: int = 0

    @property
    def remaining(self) -> int:
        return self.gross - self.refunded - self.held

    @property
    def fee(self) -> int:
        return fee(self.remaining, self.fee_basis_points)

    @property
    def owed(self) -> int:
        """Return the final amount due to the seller."""
        return self.remaining - self.fee

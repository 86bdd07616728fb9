"""Dividing amounts so that no unit is made or lost. Pure: no I/O, no clock.

Amounts are integers in minor units; what can't be divided evenly is rounded half to even (banker's
rounding, ISO 80000-1 rule B), once, and the parts always sum to the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_BASIS_POINTS = 10_000


def allocate(amount: int, weights: Sequence[int]) -> list[int]:
    """`amount` in parts proportional to `weights`, by the largest remainder; of equal remainders
    the first part gets the unit. No part is more than its weight if `amount` is at most their sum.

    Raises `ValueError` when there is an amount, and no weight to give it to.
    """
    whole = sum(weights)
    if amount < 0 or any(weight < 0 for weight in weights) or (amount and not whole):
        raise ValueError("amounts and weights are not negative, and somebody has to get it")
    if not amount:
        return [0] * len(weights)
    parts = [amount * weight // whole for weight in weights]
    remainders = [amount * weight % whole for weight in weights]
    largest = sorted(range(len(weights)), key=lambda index: -remainders[index])
    for index in largest[: amount - sum(parts)]:
        parts[index] += 1
    return parts


def fee(gross: int, basis_points: int) -> int:
    """The platform's part of `gross`: 250 basis points are 2.5 %."""
    whole, rest = divmod(gross * basis_points, _BASIS_POINTS)
    half = _BASIS_POINTS // 2
    return whole + (rest > half or (rest == half and whole % 2 == 1))


@dataclass(frozen=True)
class Share:
    """A seller's part of an order: `gross` is what the buyer pays for it, `refunded` what of that
    went back, `fee_basis_points` the platform's part of what remains."""

    gross: int
    refunded: int
    fee_basis_points: int

    @property
    def remaining(self) -> int:
        return self.gross - self.refunded

    @property
    def fee(self) -> int:
        return fee(self.remaining, self.fee_basis_points)

    @property
    def owed(self) -> int:
        """What the seller is to have in the end."""
        return self.remaining - self.fee

"""Amounts in other currencies, by a day's rates. Pure: no I/O, no clock.

A rate says how many units of a currency one unit of the base is, as the European Central Bank has
it: 1 EUR = 1.0842 USD. Conversion is exact in decimals, from major unit to major unit, and rounded
once, half to even (banker's rounding), to the minor unit of the target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Final

from common.contracts.money import exponent, major_units
from common.errors import Conflict

BASE: Final = "EUR"
# Fixed by treaty since 1999 (OJ L 320/58, 1998): the CFA francs have no market rate to the euro.
PARITIES: Final[Mapping[str, Decimal]] = {
    BASE: Decimal(1),
    "XAF": Decimal("655.957"),
    "XOF": Decimal("655.957"),
}
# More digits than any product or quotient here needs to be rounded rightly.
_PRECISION = 60


class NoRate(Conflict):
    """There is no rate, or none that is young enough; nothing was converted."""


@dataclass(frozen=True)
class DayRates:
    """What one source said of one day: units of each currency for one `BASE`."""

    day: date
    source: str
    rates: Mapping[str, Decimal]

    def of(self, currency: str) -> Decimal | None:
        return PARITIES.get(currency) or self.rates.get(currency)


@dataclass(frozen=True)
class Conversion:
    """`amount` is in minor units of the target. `rate` is how many units of the target one unit of
    the original is; `day` and `source` say whose rate it was, None where none was needed."""

    amount: int
    rate: Decimal
    day: date | None
    source: str | None


def convert(
    amount: int,
    origin: str,
    target: str,
    known: Iterable[DayRates],
    *,
    on: date,
    most_days: int,
) -> Conversion:
    """`known` are the days' rates, the preferred first. Raises `NoRate` when none of them has both
    currencies and is of `on` or at most `most_days` before."""
    if origin == target:
        return Conversion(amount, Decimal(1), None, None)
    if origin in PARITIES and target in PARITIES:
        day, source, one, other = None, "parity", PARITIES[origin], PARITIES[target]
    else:
        chosen = _choose(origin, target, known, on=on, most_days=most_days)
        day, source = chosen.day, chosen.source
        one, other = _there(chosen, origin), _there(chosen, target)
    with localcontext(prec=_PRECISION):
        # One division, at the end: a rounded cross rate would lose units of large amounts.
        exact = major_units(amount, origin) * other / one
        rounded = exact.scaleb(exponent(target)).quantize(Decimal(1), ROUND_HALF_EVEN)
        return Conversion(int(rounded), other / one, day, source)


def _choose(
    origin: str, target: str, known: Iterable[DayRates], *, on: date, most_days: int
) -> DayRates:
    oldest: DayRates | None = None
    for each in known:
        if each.day > on or each.of(origin) is None or each.of(target) is None:
            continue
        if (on - each.day).days <= most_days:
            return each
        oldest = oldest or each
    if oldest is None:
        raise NoRate(f"no rate from {origin} to {target} on {on}: run the job `rates`")
    raise NoRate(
        f"the newest rate from {origin} to {target} is of {oldest.day}, more than {most_days} days "
        f"before {on}: run the job `rates`"
    )


def _there(rates: DayRates, currency: str) -> Decimal:
    found = rates.of(currency)
    assert found is not None
    return found

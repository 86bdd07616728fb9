"""Currency conversion at a day's rates. Pure: no I/O, no clock.

A rate is the number of units of a currency per unit of the base, as published by the European
Central Bank: 1 EUR = 1.0842 USD. Conversion uses exact decimals, from major unit to major unit, and
rounds once, half to even (banker's rounding), to the minor unit of the target.
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
# More digits than any product or quotient here needs to be rounded correctly.
_PRECISION = 60


class NoRate(Conflict):
    """There is no rate, or none recent enough; nothing was converted."""


@dataclass(frozen=True)
class DayRates:
    """A source's rates for one day: units of each currency per unit of `BASE`."""

    day: date
    source: str
    rates: Mapping[str, Decimal]

    def of(self, currency: str) -> Decimal | None:
        return PARITIES.get(currency) or self.rates.get(currency)


@dataclass(frozen=True)
class Conversion:
    """A converted amount, in minor units of the target. `rate` is units of the target per unit of
    the original. `day` and `source` identify the published rate: both are None for the same
    currency; for a fixed parity `day` is None and `source` is `parity`."""

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
    """Convert `amount`, in minor units. `known` lists the days' rates, the preferred ones first.
    Raise `NoRate` if none of them has both currencies and is of `on` or at most `most_days`
    before."""
    if origin == target:
        return Conversion(amount, Decimal(1), None, None)
    if origin in PARITIES and target in PARITIES:
        day, source, one, other = None, "parity", PARITIES[origin], PARITIES[target]
    else:
        chosen = _choose(origin, target, known, on=on, most_days=most_days)
        day, source = chosen.day, chosen.source
        one, other = _there(chosen, origin), _there(chosen, target)
    with localcontext(prec=_PRECISION):
        # A single division, at the end: a rounded cross rate would lose units of large amounts.
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

"""Splitting, rounding and converting amounts neither creates nor loses a unit."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.money import exponent
from orders.pricing.allocation import Share, allocate, fee
from orders.pricing.conversion import PARITIES, DayRates, NoRate, convert

_DAY = date(2026, 11, 20)
_CURRENCIES = ["EUR", "USD", "JPY", "XAF", "KWD", "NGN"]

amounts = st.integers(0, 10**15)
weights = st.lists(st.integers(0, 10**13), min_size=1, max_size=30).filter(any)
rates = st.decimals("0.0001", 10**6, places=6).filter(bool)
currencies = st.sampled_from(_CURRENCIES)


@st.composite
def day_rates(draw: st.DrawFn, day: date = _DAY) -> DayRates:
    return DayRates(day, "ecb", {name: draw(rates) for name in ("USD", "JPY", "KWD", "NGN")})


@given(amounts, weights)
def test_parts_sum_to_the_whole_and_are_off_by_less_than_a_unit(
    amount: int, given_weights: list[int]
) -> None:
    parts = allocate(amount, given_weights)
    assert sum(parts) == amount
    for part, weight in zip(parts, given_weights, strict=True):
        assert abs(part - Fraction(amount * weight, sum(given_weights))) < 1


@given(weights, st.data())
def test_nobody_gives_back_more_than_there_is(
    given_weights: list[int], data: st.DataObject
) -> None:
    amount = data.draw(st.integers(0, sum(given_weights)))
    parts = allocate(amount, given_weights)
    assert all(0 <= part <= weight for part, weight in zip(parts, given_weights, strict=True))


def test_an_amount_without_anybody_to_get_it_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one weight"):
        allocate(1, [0, 0])
    assert allocate(0, [0, 0]) == [0, 0]


@given(amounts, st.integers(0, 10_000))
def test_the_fee_is_rounded_half_to_even(gross: int, basis_points: int) -> None:
    exact = Decimal(gross) * basis_points / 10_000
    assert fee(gross, basis_points) == exact.quantize(Decimal(1), ROUND_HALF_EVEN)


@given(amounts, st.integers(0, 10_000), st.data())
def test_what_is_paid_refunded_owed_and_kept_agrees(
    gross: int, basis_points: int, data: st.DataObject
) -> None:
    share = Share(gross, data.draw(st.integers(0, gross)), basis_points)
    assert share.owed + share.fee + share.refunded == gross
    assert min(share.owed, share.fee) >= 0
    whole = Share(gross, gross, basis_points)
    assert (whole.owed, whole.fee) == (0, 0), "what is given back in full costs nobody anything"


@given(st.integers(0, 10**12), currencies, currencies, day_rates())
def test_a_conversion_is_exact_up_to_one_rounding(
    amount: int, origin: str, target: str, known: DayRates
) -> None:
    found = convert(amount, origin, target, [known], on=_DAY, most_days=4)
    one, other = known.of(origin), known.of(target)
    assert one is not None
    assert other is not None
    scale = Fraction(10) ** (exponent(target) - exponent(origin))
    exact = Fraction(amount) * Fraction(other) / Fraction(one) * scale
    off = abs(found.amount - exact)
    assert off < Fraction(1, 2) or (off == Fraction(1, 2) and found.amount % 2 == 0)


@given(st.integers(0, 10**12), currencies, currencies, day_rates())
def test_there_and_back_is_off_by_roundings_only(
    amount: int, origin: str, target: str, known: DayRates
) -> None:
    there = convert(amount, origin, target, [known], on=_DAY, most_days=4)
    back = convert(there.amount, target, origin, [known], on=_DAY, most_days=4)
    # Half a unit of the target, in units of the original, plus half a unit of the original.
    scale = Fraction(10) ** (exponent(origin) - exponent(target))
    of_target = Fraction(known.of(origin) or 0) / Fraction(known.of(target) or 1) * scale
    assert abs(back.amount - amount) <= of_target / 2 + Fraction(1, 2)


def test_the_day_is_the_newest_that_is_not_too_old_and_it_says_which() -> None:
    def of(days_ago: int, rate: str, source: str = "ecb") -> DayRates:
        return DayRates(_DAY - timedelta(days=days_ago), source, {"USD": Decimal(rate)})

    known = [of(-1, "9"), of(1, "1.5"), of(1, "2", "json"), of(3, "3")]
    found = convert(100, "EUR", "USD", known, on=_DAY, most_days=4)
    assert (found.amount, found.source, found.day) == (150, "ecb", _DAY - timedelta(days=1))
    with pytest.raises(NoRate, match=f"is of {_DAY - timedelta(days=5)}, more than 4 days"):
        convert(100, "EUR", "USD", [of(5, "1")], on=_DAY, most_days=4)
    with pytest.raises(NoRate, match="no rate from EUR to GBP"):
        convert(100, "EUR", "GBP", known, on=_DAY, most_days=4)


@given(amounts, st.sampled_from(sorted(PARITIES)), st.sampled_from(sorted(PARITIES)))
def test_fixed_parities_need_no_day(amount: int, origin: str, target: str) -> None:
    found = convert(amount, origin, target, [], on=_DAY, most_days=0)
    assert found.day is None
    if origin == target:
        assert (found.amount, found.source) == (amount, None)
    if (origin, target) == ("EUR", "XAF"):
        exact = Decimal(amount) / 100 * Decimal("655.957")
        assert found.amount == exact.quantize(Decimal(1), ROUND_HALF_EVEN)

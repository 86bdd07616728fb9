"""A checkout's outcome does not depend on the order of reports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subscription.checkouts.status import CheckoutStatus, Outcome, of_payment

START = datetime(2026, 1, 1, tzinfo=UTC)
REPORTED = ("paid", "underpaid", "failed", "expired")

reports = st.lists(
    st.builds(
        Outcome,
        status=st.sampled_from([CheckoutStatus(each) for each in REPORTED]),
        at=st.integers(0, 5).map(lambda seconds: START + timedelta(seconds=seconds)),
        event_id=st.integers(0, 10**6).map(str),
    ),
    min_size=1,
    unique_by=lambda each: each.event_id,
)


def last(outcomes: list[Outcome]) -> Outcome:
    return max(outcomes, key=lambda each: each.order)


@given(reports.flatmap(lambda r: st.tuples(st.just(r), st.permutations(r))))
def test_any_order_ends_the_same(both: tuple[list[Outcome], list[Outcome]]) -> None:
    assert last(both[0]) == last(both[1])


@given(reports)
def test_money_that_came_outlasts_every_other_report(outcomes: list[Outcome]) -> None:
    said = {each.status for each in outcomes}
    for status in (CheckoutStatus.PAID, CheckoutStatus.UNDERPAID):
        if status in said:
            assert last(outcomes).status is status
            return
    assert last(outcomes).at == max(each.at for each in outcomes)


def test_of_two_payments_the_earlier_one_counts() -> None:
    late = Outcome(CheckoutStatus.PAID, START + timedelta(days=1), "a")
    early = Outcome(CheckoutStatus.PAID, START, "b")
    assert last([late, early]) is early


@pytest.mark.parametrize(
    ("paid", "currency", "expected", "outcome"),
    [
        (500, "XAF", 500, CheckoutStatus.PAID),
        (501, "XAF", 500, CheckoutStatus.PAID),
        (499, "XAF", 500, CheckoutStatus.UNDERPAID),
        (500, "XOF", 500, CheckoutStatus.UNDERPAID),
        (1, "EUR", None, CheckoutStatus.PAID),
    ],
)
def test_what_a_payment_makes_of_it(
    paid: int, currency: str, expected: int | None, outcome: CheckoutStatus
) -> None:
    assert (
        of_payment(paid=paid, currency=currency, expected=expected, expected_currency="XAF")
        is outcome
    )

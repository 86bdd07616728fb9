"""The paid term of a subscription does not depend on the order of payments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.subscriptions import Status
from subscription.subscriptions.terms import Cancellation, PaidTerm, Payment, term

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


def payment(
    at: datetime = START,
    interval: str = "month",
    *,
    grace: int = 3,
    reminder: int = 3,
    id_: str = "",
) -> Payment:
    return Payment(at, id_ or str(at), interval, timedelta(days=grace), timedelta(days=reminder))


payments = st.lists(
    st.builds(
        payment,
        at=st.integers(0, 400).map(lambda days: START + timedelta(days=days)),
        interval=st.sampled_from(["day", "week", "month", "year"]),
        grace=st.integers(0, 5),
        reminder=st.integers(0, 10),
        id_=st.integers(0, 10**6).map(str),
    ),
    max_size=8,
    unique_by=lambda each: each.checkout_id,
)


def the_term(*paid: Payment) -> PaidTerm:
    found = term(paid)
    assert found is not None
    return found


@given(payments.flatmap(lambda paid: st.tuples(st.just(paid), st.permutations(paid))))
def test_the_order_in_which_payments_are_learned_of_does_not_matter(
    both: tuple[list[Payment], list[Payment]],
) -> None:
    assert term(both[0]) == term(both[1])


@given(payments)
def test_a_payment_never_shortens_what_was_paid_before_it(paid: list[Payment]) -> None:
    ordered = sorted(paid, key=lambda each: (each.at, each.checkout_id))
    ends = [the_term(*ordered[: count + 1]).end for count in range(len(ordered))]
    assert ends == sorted(ends)
    assert all(end > each.at for end, each in zip(ends, ordered, strict=True))


@given(payments, st.integers(-10, 900).map(lambda days: START + timedelta(days=days)))
def test_the_clock_strikes_until_all_is_told(paid: list[Payment], now: datetime) -> None:
    found = term(paid)
    if found is None:
        return
    seen = [found.status_at(now)]
    while (after := found.next_after(now)) is not None:
        assert after > now
        now = after
        seen.append(found.status_at(now))
    assert seen[-1] is Status.EXPIRED
    order = [Status.ACTIVE, Status.PAST_DUE, Status.EXPIRED]
    assert [order.index(each) for each in seen] == sorted(order.index(each) for each in seen)


@given(
    payments.flatmap(lambda paid: st.tuples(st.just(paid), st.permutations(paid))),
    st.integers(-10, 500).map(lambda days: START + timedelta(days=days)),
    st.sampled_from(["now", "period_end"]),
)
def test_a_cancellation_ends_what_was_paid_before_it(
    both: tuple[list[Payment], list[Payment]], at: datetime, when: Literal["now", "period_end"]
) -> None:
    cancellation = Cancellation(at, when)
    found = term(both[0], cancellation)
    assert found == term(both[1], cancellation), "whatever the order of payments"
    if found is None:
        return
    if any(each.at > at for each in both[0]):
        assert not found.cancelled, "who pays afterwards has changed their mind"
        return
    whole = the_term(*both[0])
    assert found.status_at(max(found.end, at)) is Status.CANCELLED
    assert found.remind_at is None
    assert found.end == (whole.end if when == "period_end" else min(whole.end, at))


def test_what_was_given_up_never_counts_again() -> None:
    """A year is cancelled immediately and refunded; a month that is paid then counts as a month,
    also if it is cancelled at its end or the cancellation is withdrawn."""
    year, gave_up = payment(interval="year"), START + timedelta(days=1)
    month = payment(START + timedelta(days=2))
    ends = {term([year, month], None, gave_up), term([month])}
    assert len(ends) == 1
    later = Cancellation(START + timedelta(days=3), "period_end")
    found = term([year, month], later, gave_up)
    assert found is not None
    assert found.end == the_term(month).end
    at_once = term([year], Cancellation(gave_up, "now"), gave_up)
    assert at_once is not None
    assert at_once.end == gave_up


def test_no_payment_is_no_term() -> None:
    assert term([]) is None


def day(month: int, day: int) -> datetime:
    return datetime(2026, month, day, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("paid", "end"),
    [
        ([START], day(2, 28)),
        ([START, day(2, 20)], day(3, 31)),  # ahead of time
        ([START, day(3, 2)], day(3, 31)),  # in the grace period: no day is gained
        ([START, day(3, 3)], day(4, 3)),  # after it: a new start
        ([START, START, START], day(4, 30)),  # three together
    ],
)
def test_months_are_counted_from_where_they_began(paid: list[datetime], end: datetime) -> None:
    assert the_term(*(payment(at, id_=str(n)) for n, at in enumerate(paid))).end == end


def test_another_interval_follows_the_one_before() -> None:
    assert the_term(payment(), payment(day(2, 20), "week")).end == day(3, 7)


def test_what_is_paid_late_is_never_over_already() -> None:
    first = payment(interval="day", grace=5)
    late = START + timedelta(days=4)
    assert the_term(first, payment(late, "day")).end == late + timedelta(days=1)


def test_a_term_s_life() -> None:
    found = the_term(payment())
    end = day(2, 28)
    seconds = timedelta(seconds=1)
    assert not found.expiring_at(end - timedelta(days=3) - seconds)
    assert found.expiring_at(end - timedelta(days=3))
    assert found.status_at(end - seconds) is Status.ACTIVE
    assert found.status_at(end) is Status.PAST_DUE
    assert not found.expiring_at(end)
    assert found.status_at(end + timedelta(days=3) - seconds) is Status.PAST_DUE
    assert found.status_at(end + timedelta(days=3)) is Status.EXPIRED


def test_a_reminder_is_not_earlier_than_half_of_the_period() -> None:
    found = the_term(payment(interval="day"))
    assert found.remind_at == START + timedelta(hours=12)
    assert the_term(payment(reminder=0)).remind_at is None


def test_without_grace_it_expires_at_its_end() -> None:
    found = the_term(payment(grace=0))
    assert found.status_at(found.end) is Status.EXPIRED
    assert the_term(payment(grace=0), payment(found.end)).end == day(3, 28)

"""When a provider is polled about a payment, and the meaning of its responses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from webhook_gateway.domain import (
    PaymentStatus,
    PollState,
    Step,
    next_poll_at,
    on_no_result,
    on_result,
    poll_interval,
    second_payment_check_at,
)

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
LATER, EARLIER = NOW + timedelta(hours=1), NOW - timedelta(seconds=1)
PENDING, SUCCEEDED, FAILED, EXPIRED, UNKNOWN = PaymentStatus

watches = st.builds(
    PollState,
    announced=st.booleans(),
    expires_at=st.sampled_from([LATER, EARLIER]),
    poll_count=st.integers(1, 50),
    published_status=st.sampled_from([PENDING, SUCCEEDED, FAILED, EXPIRED]),
)
answers = st.sampled_from(list(PaymentStatus))


def announced(expires_at: datetime = LATER, **more: object) -> PollState:
    return replace(PollState(announced=True, expires_at=expires_at, poll_count=1), **more)  # type: ignore[arg-type]


def test_a_pending_payment_is_asked_about_again() -> None:
    found = on_result(announced(), PENDING, NOW, failure_is_final=False)
    assert found.publish is None
    assert found.next_poll_at is not None
    assert NOW < found.next_poll_at <= NOW + timedelta(minutes=10)


def test_a_failed_link_is_watched_on_and_a_failed_request_is_not() -> None:
    watched_on = on_result(announced(), FAILED, NOW, failure_is_final=False)
    assert (watched_on.publish, watched_on.next_poll_at is None) == (FAILED, False)
    assert on_result(announced(), FAILED, NOW, failure_is_final=True) == Step(FAILED, None)


def test_further_charges_are_looked_for_until_there_is_an_answer() -> None:
    """Also for a payment that was reported days after its page had expired."""
    expired = NOW - timedelta(days=8)
    found = on_no_result(announced(expired, published_status=SUCCEEDED), NOW)
    assert (found.publish, found.next_poll_at is None) == (None, False)
    given_up = on_no_result(announced(NOW - timedelta(days=15), published_status=SUCCEEDED), NOW)
    assert given_up == Step(None, None)


def test_what_nobody_paid_in_time_expires_and_is_watched_for_another_day() -> None:
    assert on_result(announced(EARLIER), EXPIRED, NOW, failure_is_final=False) == Step(
        EXPIRED, None
    )
    for answer in (PENDING, UNKNOWN):
        found = on_result(announced(EARLIER), answer, NOW, failure_is_final=False)
        assert found.publish is EXPIRED
        assert found.next_poll_at is not None
        told = announced(EARLIER, published_status=EXPIRED)
        assert on_result(told, SUCCEEDED, NOW, failure_is_final=False) == Step(SUCCEEDED, None)
    day_after = NOW + timedelta(hours=24)
    assert on_result(told, UNKNOWN, day_after, failure_is_final=False) == Step(None, None)


def test_what_its_provider_calls_pending_is_asked_about_for_a_week() -> None:
    told = announced(EARLIER, published_status=EXPIRED)
    for days in (1, 3, 6):
        found = on_result(told, PENDING, NOW + timedelta(days=days), failure_is_final=False)
        assert (found.publish, found.next_poll_at is None) == (None, False)
    week_after = NOW + timedelta(days=7)
    assert on_result(told, PENDING, week_after, failure_is_final=False) == Step(None, None)


def test_what_was_paid_is_looked_at_once_more_when_nobody_can_pay_any_more() -> None:
    assert second_payment_check_at(announced(LATER), NOW) == LATER + timedelta(hours=1)
    assert second_payment_check_at(
        announced(LATER, published_status=SUCCEEDED), NOW
    ) == LATER + timedelta(hours=1)
    day_after = LATER + timedelta(days=1)
    assert (
        second_payment_check_at(announced(LATER, published_status=SUCCEEDED), day_after) is None
    ), "it was"
    assert second_payment_check_at(announced(LATER), day_after) == day_after, "heard of only now"


def test_a_hint_about_nothing_is_dropped_without_a_word() -> None:
    watch = PollState(announced=False, expires_at=LATER, poll_count=6)
    assert on_result(watch, UNKNOWN, NOW, failure_is_final=False) == Step(None, None)
    assert (
        on_result(replace(watch, poll_count=1), UNKNOWN, NOW, failure_is_final=False).next_poll_at
        is not None
    )


@given(watch=watches, answer=answers, final=st.booleans())
def test_success_is_final_and_nothing_is_told_twice(
    watch: PollState, answer: PaymentStatus, final: bool
) -> None:
    found = on_result(watch, answer, NOW, failure_is_final=final)
    if watch.published_status is SUCCEEDED:
        assert found == Step(None, None)
    elif answer is SUCCEEDED:
        assert found == Step(SUCCEEDED, None)
    assert found.publish in {None, SUCCEEDED, FAILED, EXPIRED}
    assert found.publish != watch.published_status
    if found.publish is FAILED:
        assert answer is FAILED, "only the provider says that a payment failed"


@given(watch=watches, answers=st.lists(answers, min_size=80, max_size=80))
def test_every_payment_is_settled_or_dropped_in_the_end(
    watch: PollState, answers: list[PaymentStatus]
) -> None:
    """Whatever the provider responds, polling ends."""
    now = NOW
    for answer in answers:
        found = on_result(watch, answer, now, failure_is_final=False)
        if found.next_poll_at is None:
            return
        assert found.next_poll_at > now
        now = found.next_poll_at
        watch = replace(
            watch,
            poll_count=watch.poll_count + 1,
            published_status=found.publish or watch.published_status,
        )
    raise AssertionError("80 questions, and still open")


@given(watch=watches)
def test_no_answer_at_all_is_not_for_ever_either(watch: PollState) -> None:
    """Polling ends after a limited number of polls."""
    now: datetime | None = NOW
    for _ in range(80):
        assert now is not None
        now = next_poll_at(watch, now)
        if now is None:
            return
        watch = replace(watch, poll_count=watch.poll_count + 1)
    raise AssertionError("80 questions, and still open")


@given(asked=st.integers(0, 10_000), known=st.booleans())
def test_pauses_grow_up_to_ten_minutes(asked: int, known: bool) -> None:
    one, next_one = poll_interval(asked, announced=known), poll_interval(asked + 1, announced=known)
    assert timedelta(seconds=5) <= one <= next_one <= timedelta(minutes=10)


def test_what_nobody_answers_for_is_asked_about_for_days_before_it_expires() -> None:
    for since in (timedelta(seconds=1), timedelta(hours=25), timedelta(days=6, hours=23)):
        asked_on = on_no_result(announced(NOW - since), NOW)
        assert (asked_on.publish, asked_on.next_poll_at is None) == (None, False)
    over = announced(NOW - timedelta(days=7))
    assert on_no_result(over, NOW) == Step(EXPIRED, None)
    assert on_no_result(replace(over, published_status=EXPIRED), NOW) == Step(None, None)
    assert on_no_result(replace(over, announced=False), NOW) == Step(None, None)

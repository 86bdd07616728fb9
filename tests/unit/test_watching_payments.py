"""When a provider is asked about a payment, and what its answers mean."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from webhook_gateway.domain import (
    Standing,
    Step,
    Watch,
    next_question,
    pause,
    step,
    unanswered,
)

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
LATER, EARLIER = NOW + timedelta(hours=1), NOW - timedelta(seconds=1)
PENDING, SUCCEEDED, FAILED, EXPIRED, UNKNOWN = Standing

watches = st.builds(
    Watch,
    announced=st.booleans(),
    expires_at=st.sampled_from([LATER, EARLIER]),
    asked=st.integers(1, 50),
    told=st.sampled_from([PENDING, SUCCEEDED, FAILED, EXPIRED]),
)
answers = st.sampled_from(list(Standing))


def announced(expires_at: datetime = LATER, **more: object) -> Watch:
    return replace(Watch(announced=True, expires_at=expires_at, asked=1), **more)  # type: ignore[arg-type]


def test_a_pending_payment_is_asked_about_again() -> None:
    found = step(announced(), PENDING, NOW, failure_is_final=False)
    assert found.tell is None
    assert found.ask_at is not None
    assert NOW < found.ask_at <= NOW + timedelta(minutes=10)


def test_a_failed_link_is_watched_on_and_a_failed_request_is_not() -> None:
    watched_on = step(announced(), FAILED, NOW, failure_is_final=False)
    assert (watched_on.tell, watched_on.ask_at is None) == (FAILED, False)
    assert step(announced(), FAILED, NOW, failure_is_final=True) == Step(FAILED, None)


def test_what_nobody_paid_in_time_expires_and_is_watched_for_another_day() -> None:
    assert step(announced(EARLIER), EXPIRED, NOW, failure_is_final=False) == Step(EXPIRED, None)
    for answer in (PENDING, UNKNOWN):
        found = step(announced(EARLIER), answer, NOW, failure_is_final=False)
        assert found.tell is EXPIRED
        assert found.ask_at is not None
        told = announced(EARLIER, told=EXPIRED)
        assert step(told, SUCCEEDED, NOW, failure_is_final=False) == Step(SUCCEEDED, None)
        day_after = NOW + timedelta(hours=24)
        assert step(told, answer, day_after, failure_is_final=False) == Step(None, None)


def test_a_hint_about_nothing_is_dropped_without_a_word() -> None:
    watch = Watch(announced=False, expires_at=LATER, asked=6)
    assert step(watch, UNKNOWN, NOW, failure_is_final=False) == Step(None, None)
    assert step(replace(watch, asked=1), UNKNOWN, NOW, failure_is_final=False).ask_at is not None


@given(watch=watches, answer=answers, final=st.booleans())
def test_success_is_final_and_nothing_is_told_twice(
    watch: Watch, answer: Standing, final: bool
) -> None:
    found = step(watch, answer, NOW, failure_is_final=final)
    if watch.told is SUCCEEDED:
        assert found == Step(None, None)
    elif answer is SUCCEEDED:
        assert found == Step(SUCCEEDED, None)
    assert found.tell in {None, SUCCEEDED, FAILED, EXPIRED}
    assert found.tell != watch.told
    if found.tell is FAILED:
        assert answer is FAILED, "only the provider says that a payment failed"


@given(watch=watches, answers=st.lists(answers, min_size=80, max_size=80))
def test_every_payment_is_settled_or_dropped_in_the_end(
    watch: Watch, answers: list[Standing]
) -> None:
    """However the provider answers, nobody is asked for ever."""
    now = NOW
    for answer in answers:
        found = step(watch, answer, now, failure_is_final=False)
        if found.ask_at is None:
            return
        assert found.ask_at > now
        now = found.ask_at
        watch = replace(watch, asked=watch.asked + 1, told=found.tell or watch.told)
    raise AssertionError("80 questions, and still open")


@given(watch=watches)
def test_no_answer_at_all_is_not_for_ever_either(watch: Watch) -> None:
    """Within a bounded number of questions nobody is asked any more."""
    now: datetime | None = NOW
    for _ in range(80):
        assert now is not None
        now = next_question(watch, now)
        if now is None:
            return
        watch = replace(watch, asked=watch.asked + 1)
    raise AssertionError("80 questions, and still open")


@given(asked=st.integers(0, 10_000), known=st.booleans())
def test_pauses_grow_up_to_ten_minutes(asked: int, known: bool) -> None:
    one, next_one = pause(asked, announced=known), pause(asked + 1, announced=known)
    assert timedelta(seconds=5) <= one <= next_one <= timedelta(minutes=10)


def test_what_nobody_answers_for_is_asked_about_for_days_before_it_expires() -> None:
    for since in (timedelta(seconds=1), timedelta(hours=25), timedelta(days=6, hours=23)):
        asked_on = unanswered(announced(NOW - since), NOW)
        assert (asked_on.tell, asked_on.ask_at is None) == (None, False)
    over = announced(NOW - timedelta(days=7))
    assert unanswered(over, NOW) == Step(EXPIRED, None)
    assert unanswered(replace(over, told=EXPIRED), NOW) == Step(None, None)
    assert unanswered(replace(over, announced=False), NOW) == Step(None, None)

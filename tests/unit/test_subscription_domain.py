"""The subscription's rules: any order, any duplication, the same state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.subscriptions import Status
from subscription.domain import (
    Change,
    Known,
    Lifecycle,
    Payment,
    PaymentReport,
    Phase,
    Snapshot,
    Subscription,
    take_payment,
    take_snapshot,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
Report = Snapshot | PaymentReport

moments = st.integers(0, 5).map(lambda seconds: START + timedelta(seconds=seconds))
event_ids = st.integers(0, 10**6).map("evt_{}".format)
snapshots = st.builds(
    Snapshot,
    at=moments,
    event_id=event_ids,
    lifecycle=st.sampled_from(Lifecycle),
    status=st.sampled_from(Status),
    plan_id=st.sampled_from([None, "starter", "pro"]),
    current_period_end=st.none() | moments,
    cancel_at_period_end=st.booleans(),
)
payment_reports = st.builds(PaymentReport, at=moments, event_id=event_ids, paid=st.booleans())
histories = st.lists(snapshots | payment_reports, max_size=8, unique_by=lambda r: r.event_id)


def apply(reports: Sequence[Report]) -> tuple[Subscription, list[Change]]:
    subscription, told = Subscription(), []
    for report in reports:
        if isinstance(report, Snapshot):
            subscription, changes = take_snapshot(subscription, report)
        else:
            subscription, changes = take_payment(subscription, report)
        told += changes
    return subscription, told


@given(histories.flatmap(lambda h: st.tuples(st.just(h), st.permutations(h + h[:3]))))
def test_any_permutation_and_duplication_gives_the_same_subscription(
    both: tuple[list[Report], list[Report]],
) -> None:
    history, shuffled = both
    assert apply(shuffled)[0] == apply(history)[0]


@given(histories)
def test_the_last_activated_or_cancelled_told_agrees_with_the_phase(history: list[Report]) -> None:
    subscription, told = apply(history)
    decisive = [each for each in told if each in {Change.ACTIVATED, Change.CANCELLED}]
    match subscription.phase:
        case Phase.UNUSED:
            assert decisive == []
        case Phase.ENDED:
            assert decisive[-1] is Change.CANCELLED
        case _:
            assert decisive[-1] is Change.ACTIVATED


@given(histories)
def test_a_report_that_is_taken_twice_tells_nothing_more(history: list[Report]) -> None:
    _, told = apply(history)
    _, twice = apply([report for report in history for _ in range(2)])
    assert twice == told


def snapshot(status: Status, at: int = 0, **more: object) -> Snapshot:
    lifecycle = more.pop("lifecycle", Lifecycle.UPDATED)
    return Snapshot(START + timedelta(seconds=at), f"evt_{at}", lifecycle, status, **more)  # type: ignore[arg-type]


def test_an_updated_before_its_created_wins() -> None:
    created = snapshot(Status.INCOMPLETE, at=1, lifecycle=Lifecycle.CREATED)
    updated = snapshot(Status.ACTIVE, at=2)
    subscription, told = apply([updated, created])
    assert subscription.status is Status.ACTIVE
    assert told == [Change.ACTIVATED]


def test_of_two_events_in_one_second_the_one_further_along_wins() -> None:
    created = snapshot(Status.INCOMPLETE, lifecycle=Lifecycle.CREATED)
    updated = snapshot(Status.ACTIVE)
    assert apply([created, updated])[0].status is Status.ACTIVE
    assert apply([updated, created])[0].status is Status.ACTIVE


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        ([snapshot(Status.INCOMPLETE)], []),
        ([snapshot(Status.PAST_DUE)], [Change.ACTIVATED, Change.PAST_DUE]),
        ([snapshot(Status.CANCELLED)], []),
        (
            [snapshot(Status.ACTIVE), snapshot(Status.PAST_DUE, 1), snapshot(Status.ACTIVE, 2)],
            [Change.ACTIVATED, Change.PAST_DUE, Change.ACTIVATED],
        ),
        (
            [snapshot(Status.CANCELLED, 5), snapshot(Status.ACTIVE, 1)],
            [Change.ACTIVATED, Change.CANCELLED],
        ),
        (
            [
                snapshot(Status.ACTIVE, 0, plan_id="starter", current_period_end=START),
                snapshot(
                    Status.ACTIVE, 1, plan_id="pro", current_period_end=START + timedelta(days=30)
                ),
            ],
            [Change.ACTIVATED, Change.RENEWED, Change.PLAN_CHANGED],
        ),
    ],
)
def test_what_is_told(reports: list[Report], told: list[Change]) -> None:
    assert apply(reports)[1] == told


def test_a_payment_activates_what_has_no_snapshot_yet() -> None:
    paid = PaymentReport(START, "evt_paid", paid=True)
    subscription, told = apply([paid])
    assert (subscription.status, told) == (Status.ACTIVE, [Change.ACTIVATED])


def test_a_payment_after_the_end_does_not_bring_it_back() -> None:
    ended = snapshot(Status.CANCELLED, 1, lifecycle=Lifecycle.DELETED)
    paid = PaymentReport(START + timedelta(seconds=9), "evt_paid", paid=True)
    assert apply([snapshot(Status.ACTIVE), ended, paid])[0].status is Status.CANCELLED


@given(st.lists(st.tuples(st.none() | st.text(), moments, event_ids), unique_by=lambda r: r[2]))
def test_the_newest_value_holds_in_any_order(
    reports: list[tuple[str | None, datetime, str]],
) -> None:
    def fold(ordered: Sequence[tuple[str | None, datetime, str]]) -> Known:
        known = Known()
        for report in ordered:
            known = known.or_newer(*report)
        return known

    assert fold(reports) == fold(sorted(reports, key=lambda r: r[2])) == fold(reports + reports)


def test_a_payments_success_outlasts_every_failure() -> None:
    paid = Payment(True, START, "evt_a", 1500, "EUR")
    failed_later = Payment(False, START + timedelta(days=1), "evt_b", 1500, "EUR", "no funds")
    assert paid.order > failed_later.order

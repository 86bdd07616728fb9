"""The subscription's rules: any order and any duplication lead to the same state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.subscriptions import Status
from subscription.domain import (
    Change,
    Facts,
    Lifecycle,
    Payment,
    PaymentReport,
    Phase,
    Policy,
    Snapshot,
    Subscription,
    VersionedValue,
    changes,
    take_payment,
    take_snapshot,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + timedelta(minutes=1)
POLICY = Policy()
Report = Snapshot | PaymentReport

moments = st.integers(0, 5).map(lambda seconds: START + timedelta(seconds=seconds))
event_ids = st.integers(0, 10**6).map("evt_{}".format)
facts = st.builds(
    Facts,
    status=st.sampled_from(Status),
    plan_id=st.sampled_from([None, "starter", "pro"]),
    current_period_end=st.none() | moments,
    cancel_at_period_end=st.booleans(),
    cancel_at=st.none() | moments,
    trialing=st.booleans(),
    collection_paused=st.booleans(),
)
snapshots = st.builds(
    Snapshot,
    at=moments,
    event_id=event_ids,
    lifecycle=st.sampled_from(Lifecycle),
    facts=facts,
    previous=st.none() | facts,
    recorded_at=moments,
)
policies = st.builds(
    Policy,
    past_due=st.booleans(),
    past_due_grace=st.sampled_from([None, timedelta(0), timedelta(days=30)]),
    unpaid=st.booleans(),
    paused=st.booleans(),
    trialing=st.booleans(),
    collection_paused=st.booleans(),
)
payment_reports = st.builds(PaymentReport, at=moments, event_id=event_ids, paid=st.booleans())
histories = st.lists(snapshots | payment_reports, max_size=8, unique_by=lambda r: r.event_id)


def apply(reports: Sequence[Report], policy: Policy = POLICY) -> tuple[Subscription, list[Change]]:
    subscription, published, phase = Subscription(), [], Phase.UNUSED
    for report in reports:
        before = (subscription, phase)
        if isinstance(report, Snapshot):
            subscription = take_snapshot(subscription, report)
        else:
            subscription = take_payment(subscription, report)
        phase = subscription.phase(policy, NOW, phase)
        published += changes(before, (subscription, phase))
    return subscription, published


@given(histories.flatmap(lambda h: st.tuples(st.just(h), st.permutations(h + h[:3]))))
def test_any_permutation_and_duplication_gives_the_same_subscription(
    both: tuple[list[Report], list[Report]],
) -> None:
    history, shuffled = both
    assert apply(shuffled)[0] == apply(history)[0]


@given(histories, policies)
def test_what_was_published_last_agrees_with_the_phase(
    history: list[Report], policy: Policy
) -> None:
    subscription, published = apply(history, policy)
    decisive = {Change.ACTIVATED, Change.SUSPENDED, Change.CANCELLED}
    last = [each for each in published if each in decisive][-1:]
    match subscription.phase(policy, NOW, Phase.SUSPENDED if last else Phase.UNUSED):
        case Phase.UNUSED:
            assert last == []
        case Phase.ENDED:
            assert last == [Change.CANCELLED]
        case Phase.SUSPENDED:
            assert last == [Change.SUSPENDED]
        case _:
            assert last == [Change.ACTIVATED]


@given(st.lists(facts, min_size=2, max_size=6, unique=True), st.randoms(), st.data())
def test_of_changes_of_one_second_the_last_one_holds_whatever_comes_first(
    chain: list[Facts], chance: Random, data: st.DataObject
) -> None:
    """One call of Stripe's API creates several events, each with its previous attributes. Ids and
    the order of arrival have no meaning; some events change nothing relevant here."""
    made = [(before, after) for before, after in pairwise(chain)]
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(made)))
        same = made[place - 1][1] if place else made[0][0]
        made.insert(place, (same, same))
    ids = data.draw(st.lists(event_ids, min_size=len(made), max_size=len(made), unique=True))
    reports = [
        Snapshot(START, id_, Lifecycle.UPDATED, after, previous=before, recorded_at=START)
        for id_, (before, after) in zip(ids, made, strict=True)
    ]
    chance.shuffle(reports)
    assert apply(reports)[0].facts == chain[-1]


@given(st.lists(facts, min_size=2, max_size=6), st.randoms())
def test_a_circle_of_one_second_ends_where_the_second_before_ended(
    chain: list[Facts], chance: Random
) -> None:
    """Any other path through the same facts, with repetitions, ends in the same state."""
    later = START + timedelta(seconds=1)
    reports = [Snapshot(START, "evt_0", Lifecycle.CREATED, chain[0])]
    reports += [
        Snapshot(later, f"evt_{number}", Lifecycle.UPDATED, after, previous=before)
        for number, (before, after) in enumerate(pairwise(chain), start=1)
    ]
    chance.shuffle(reports)
    assert apply(reports)[0].facts == chain[-1]


def seen_with(*statuses: Status, days: Sequence[int]) -> list[Snapshot]:
    """Return reports of the statuses without previous attributes."""
    return [
        Snapshot(START + timedelta(days=day), f"evt_{day}", Lifecycle.UPDATED, Facts(status))
        for day, status in zip(days, statuses, strict=True)
    ]


@given(st.permutations(range(6)))
def test_what_changes_no_status_does_not_begin_its_grace_anew(order: list[int]) -> None:
    """No event reported the change of status; each month's invoice causes another report."""
    reports = seen_with(Status.ACTIVE, *[Status.PAST_DUE] * 5, days=(0, 31, 61, 92, 122, 153))
    subscription = apply([reports[number] for number in order])[0]
    assert subscription.since == START + timedelta(days=31)
    paid = seen_with(Status.ACTIVE, Status.PAST_DUE, days=(160, 180))
    assert apply([*paid, *reports])[0].since == START + timedelta(days=180)


def test_of_a_subscription_that_is_reported_for_years_the_begin_of_its_status_is_kept() -> None:
    reports = seen_with(Status.ACTIVE, *[Status.PAST_DUE] * 200, days=range(201))
    subscription = apply(reports)[0]
    assert subscription.since == START + timedelta(days=1)
    assert len(subscription.statuses) <= 30


def test_where_nothing_orders_them_the_one_that_came_later_holds() -> None:
    def came(seconds: int, id_: str, plan: str) -> Snapshot:
        at = START + timedelta(seconds=seconds)
        return Snapshot(START, id_, Lifecycle.UPDATED, Facts(Status.ACTIVE, plan), recorded_at=at)

    for first, second in (("evt_a", "evt_b"), ("evt_b", "evt_a")):
        both = [came(1, first, "old"), came(2, second, "new")]
        assert apply(both)[0].facts.plan_id == "new"
        assert apply(both[::-1])[0].facts.plan_id == "new"


@given(histories)
def test_a_report_that_is_taken_twice_tells_nothing_more(history: list[Report]) -> None:
    _, published = apply(history)
    _, twice = apply([report for report in history for _ in range(2)])
    assert twice == published


def snapshot(status: Status, at: int = 0, **more: Any) -> Snapshot:
    lifecycle = more.pop("lifecycle", Lifecycle.UPDATED)
    previous = Facts(more.pop("previous")) if "previous" in more else None
    moment = START + timedelta(seconds=at)
    return Snapshot(moment, f"evt_{at}{lifecycle}", lifecycle, Facts(status, **more), previous)


@pytest.mark.parametrize(
    ("status", "policy", "phase"),
    [
        (Status.UNPAID, Policy(), Phase.SUSPENDED),
        (Status.UNPAID, Policy(unpaid=True), Phase.PAST_DUE),
        (Status.PAUSED, Policy(), Phase.SUSPENDED),
        (Status.PAUSED, Policy(paused=True), Phase.ACTIVE),
        (Status.PAST_DUE, Policy(), Phase.PAST_DUE),
        (Status.PAST_DUE, Policy(past_due=False), Phase.SUSPENDED),
        (Status.PAST_DUE, Policy(past_due_grace=timedelta(0)), Phase.SUSPENDED),
        (Status.ACTIVE, Policy(past_due=False), Phase.ACTIVE),
        (Status.CANCELLED, Policy(unpaid=True, paused=True), Phase.ENDED),
    ],
)
def test_what_a_status_entitles_to_is_the_policy_s(
    status: Status, policy: Policy, phase: Phase
) -> None:
    subscription, _ = apply([snapshot(Status.ACTIVE), snapshot(status, 1)], policy)
    assert subscription.phase(policy, NOW) is phase


@pytest.mark.parametrize(
    ("policy", "phase"),
    [
        (Policy(), Phase.ACTIVE),
        (Policy(trialing=False), Phase.ACTIVE),
        (Policy(collection_paused=False), Phase.SUSPENDED),
        (Policy(refunded=False), Phase.SUSPENDED),
        (Policy(disputed=False), Phase.SUSPENDED),
    ],
)
def test_the_policy_may_withhold_from_an_active_subscription(policy: Policy, phase: Phase) -> None:
    paused = Facts(Status.ACTIVE, "pro", collection_paused=True)
    snapshot = Snapshot(START, "evt_1", Lifecycle.CREATED, paused)
    subscription = replace(take_snapshot(Subscription(), snapshot), refunded=True, disputed=True)
    assert subscription.phase(policy, NOW, Phase.ACTIVE) is phase


def test_a_trial_that_gives_no_entitlement_begins_nothing() -> None:
    policy = Policy(trialing=False)
    trial = Snapshot(START, "evt_1", Lifecycle.CREATED, Facts(Status.ACTIVE, "pro", trialing=True))
    ended = Snapshot(NOW, "evt_2", Lifecycle.DELETED, Facts(Status.CANCELLED, "pro"))
    paid = PaymentReport(START, "evt_3", paid=True)  # of nothing, as Stripe reports a trial's start
    bought = Snapshot(NOW, "evt_4", Lifecycle.UPDATED, Facts(Status.ACTIVE, "pro"))
    assert apply([trial, paid], policy)[1] == []
    assert apply([trial, paid, ended], policy)[1] == []
    assert apply([trial, paid, bought], policy)[1] == [Change.ACTIVATED]
    assert apply([trial], Policy())[1] == [Change.ACTIVATED]


def test_the_grace_of_who_is_past_due_counts_from_when_that_began() -> None:
    """The newest webhook with that status does not restart it."""
    began = snapshot(Status.PAST_DUE, 1, previous=Status.ACTIVE)
    subscription, _ = apply([snapshot(Status.ACTIVE), began, snapshot(Status.PAST_DUE, 5)])
    over = START + timedelta(seconds=1, days=30)
    assert subscription.changes_at(POLICY, NOW) == over
    assert subscription.phase(POLICY, over - timedelta(seconds=1)) is Phase.PAST_DUE
    assert subscription.phase(POLICY, over) is Phase.SUSPENDED
    assert subscription.changes_at(POLICY, over) is None


def test_an_updated_before_its_created_wins() -> None:
    created = snapshot(Status.INCOMPLETE, at=1, lifecycle=Lifecycle.CREATED)
    updated = snapshot(Status.ACTIVE, at=2)
    subscription, published = apply([updated, created])
    assert subscription.status is Status.ACTIVE
    assert published == [Change.ACTIVATED]


def test_of_two_events_in_one_second_the_one_further_along_wins() -> None:
    created = snapshot(Status.INCOMPLETE, lifecycle=Lifecycle.CREATED)
    updated = snapshot(Status.ACTIVE)
    assert apply([created, updated])[0].status is Status.ACTIVE
    assert apply([updated, created])[0].status is Status.ACTIVE


@pytest.mark.parametrize(
    ("reports", "published"),
    [
        ([snapshot(Status.INCOMPLETE)], []),
        ([snapshot(Status.PAST_DUE)], [Change.ACTIVATED, Change.PAST_DUE]),
        (
            [snapshot(Status.ACTIVE), snapshot(Status.UNPAID, 1), snapshot(Status.ACTIVE, 2)],
            [Change.ACTIVATED, Change.SUSPENDED, Change.ACTIVATED],
        ),
        (
            [snapshot(Status.PAUSED), snapshot(Status.CANCELLED, 1)],
            [Change.ACTIVATED, Change.SUSPENDED, Change.CANCELLED],
        ),
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
def test_what_is_published(reports: list[Report], published: list[Change]) -> None:
    assert apply(reports)[1] == published


def test_a_payment_activates_what_has_no_snapshot_yet() -> None:
    paid = PaymentReport(START, "evt_paid", paid=True)
    subscription, published = apply([paid])
    assert (subscription.status, published) == (Status.ACTIVE, [Change.ACTIVATED])


def test_a_payment_after_the_end_does_not_bring_it_back() -> None:
    ended = snapshot(Status.CANCELLED, 1, lifecycle=Lifecycle.DELETED)
    paid = PaymentReport(START + timedelta(seconds=9), "evt_paid", paid=True)
    assert apply([snapshot(Status.ACTIVE), ended, paid])[0].status is Status.CANCELLED


@given(st.lists(st.tuples(st.none() | st.text(), moments, event_ids), unique_by=lambda r: r[2]))
def test_the_newest_value_holds_in_any_order(
    reports: list[tuple[str | None, datetime, str]],
) -> None:
    def fold(ordered: Sequence[tuple[str | None, datetime, str]]) -> VersionedValue:
        known = VersionedValue()
        for report in ordered:
            known = known.or_newer(*report)
        return known

    assert fold(reports) == fold(sorted(reports, key=lambda r: r[2])) == fold(reports + reports)


def test_a_payments_success_outlasts_every_failure() -> None:
    paid = Payment(True, START, "evt_a", 1500, "EUR")
    failed_later = Payment(False, START + timedelta(days=1), "evt_b", 1500, "EUR", "no funds")
    assert paid.order > failed_later.order

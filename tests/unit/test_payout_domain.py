"""The states of a payout and its ledger entries, as properties."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.errors import Conflict
from payouts import domain
from payouts.domain import (
    AttemptRef,
    NextAction,
    ProviderTransfer,
    State,
    TransferStatus,
    Transition,
)
from payouts.execution.status_updates import PayoutHistory, transfer_to_follow
from payouts.ledger import audit_log, entries
from payouts.ledger.audit_log import Action, Actor, Posting
from payouts.ledger.entries import Entry, LedgerAccount, PayoutAmount
from payouts.models import Attempt, Payout, Transfer
from payouts.recipient_service import next_payout
from payouts.schemas import Schedule

STATES = st.sampled_from(State)
FATES = st.sampled_from(TransferStatus)
SUMS = st.builds(
    PayoutAmount,
    amount=st.integers(1, 10**12),
    fee=st.integers(0, 10**6),
    funding=st.sampled_from(["direct", "balance"]),
) | st.builds(
    PayoutAmount, amount=st.integers(-(10**12), -1), fee=st.just(0), funding=st.just("direct")
)


@given(st.lists(FATES, min_size=1, max_size=4))
def test_what_was_said_of_a_transfer_does_not_depend_on_its_order(
    fates: list[TransferStatus],
) -> None:
    results = set()
    for order in permutations(fates):
        known = None
        for told in order:
            known = domain.merge_status(known, told)
        results.add(known)
    assert len(results) == 1


@given(FATES, FATES)
def test_what_was_said_twice_is_said_once(known: TransferStatus, told: TransferStatus) -> None:
    once = domain.merge_status(known, told)
    assert domain.merge_status(once, told) == once


@given(STATES, st.sampled_from(Transition))
def test_nothing_is_sent_but_what_is_approved(state: State, move: Transition) -> None:
    try:
        after = domain.transition(state, move)
    except Conflict:
        return
    if after is State.SUBMITTING:
        assert (state, move) == (State.APPROVED, Transition.SEND)
    if after is State.APPROVED:
        assert move in {Transition.APPROVE, Transition.RETRY, Transition.FREE, Transition.DEFER}
    assert state not in {State.PAID, State.CANCELLED}


@given(STATES, st.integers(0, 5), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_only_what_was_never_sent_is_sent_without_asking(
    state: State, attempts: int, held: bool, stopped: bool, due: bool, under_way: bool
) -> None:
    step = domain.next_step(
        state, attempts=attempts, held=held, stopped=stopped, due=due, under_way=under_way
    )
    if step is NextAction.SEND:
        assert (state, attempts, held, stopped, due) == (State.APPROVED, 0, False, False, True)


@given(STATES, FATES)
def test_a_payout_that_moved_money_is_never_open_for_another(
    state: State, transfer_status: TransferStatus
) -> None:
    after = domain.status_after(state, transfer_status)
    if transfer_status.moves_money and state is not State.SCHEDULED:
        assert after in {State.SUBMITTED, State.PAID, State.RETURNED}


FOUND = st.builds(
    ProviderTransfer,
    transfer_id=st.sampled_from(["a", "b", "c"]),
    transfer_status=FATES,
    amount=st.just(1),
    currency=st.just("USD"),
)


@given(st.lists(FOUND, max_size=3, unique_by=lambda f: f.transfer_id), st.data())
def test_a_transfer_that_moves_money_is_the_payout(
    found: list[ProviderTransfer], data: st.DataObject
) -> None:
    known = st.sampled_from([None, "a", "b", "c"])
    ids = data.draw(st.lists(known, min_size=1, max_size=3))
    assume(len({*filter(None, ids)}) == len([*filter(None, ids)]))
    attempts = [AttemptRef(number, id_) for number, id_ in enumerate(ids, start=1)]
    own = domain.match_transfers(attempts, found)
    moving = [each for each in found if each.transfer_status.moves_money]
    if moving:
        assert own in moving
        assert own.transfer_status is TransferStatus.PAID or all(
            each.transfer_status is not TransferStatus.PAID for each in moving
        )
    elif own is not None:
        assert own.transfer_id not in {each.transfer_id for each in attempts[:-1]}


@given(st.sampled_from([State.APPROVED, State.UNKNOWN, State.FAILED]), SUMS, st.integers(1, 10**9))
def test_a_corrected_payout_has_entries_as_if_it_had_been_so(
    state: State, sum_: PayoutAmount, amount: int
) -> None:
    assume(sum_.amount > 0)
    corrected: Counter[LedgerAccount] = Counter()
    _post(corrected, entries.opening(sum_))
    _post(corrected, entries.correction(state, sum_, amount))
    at_once: Counter[LedgerAccount] = Counter()
    _post(at_once, entries.opening(PayoutAmount(amount, sum_.fee, sum_.funding)))
    assert +corrected == +at_once
    assert -corrected == -at_once


@given(st.lists(STATES, min_size=1, max_size=12), SUMS)
def test_entries_sum_to_zero_and_end_where_the_payout_is(
    states: list[State], sum_: PayoutAmount
) -> None:
    """Along any path through the states, which includes every possible path."""
    start = State.APPROVED
    balance: Counter[LedgerAccount] = Counter()
    _post(balance, entries.opening(sum_))
    charged = False
    for to in states:
        left = PayoutAmount(sum_.amount, 0 if charged else sum_.fee, sum_.funding)
        moved = entries.of_transition(start, to, left)
        assert all(each.amount > 0 and each.source is not each.target for each in moved)
        _post(balance, moved)
        charged = charged or to in {State.PAID, State.RETURNED}
        start = to
    assert sum(balance.values()) == 0
    fee = sum_.fee if charged else 0
    assert balance[LedgerAccount.FEES] == fee
    assert balance[LedgerAccount.PAID] == (sum_.amount if start is State.PAID else 0)
    open_ = start not in {State.PAID, State.RETURNED, State.CANCELLED}
    still_to_charge = 0 if charged else sum_.fee
    assert balance[LedgerAccount.PENDING] == (sum_.amount + still_to_charge if open_ else 0)


@given(SUMS, st.lists(st.integers(1, 10**9), max_size=4), STATES)
def test_what_came_back_in_parts_is_in_no_entry_twice(
    sum_: PayoutAmount, parts: list[int], to: State
) -> None:
    assume(sum_.amount > 0)
    balance: Counter[LedgerAccount] = Counter()
    _post(balance, entries.opening(sum_))
    _post(balance, entries.of_transition(State.SUBMITTED, State.PAID, sum_))
    at_once, paid = balance.copy(), replace(sum_, fee=0)
    for returned in sorted({part for part in parts if part < sum_.amount}):
        _post(balance, entries.part_returned(paid, returned))
        paid = replace(paid, returned=returned)
        assert balance[LedgerAccount.PAID] == sum_.amount - returned
    by_other = balance.copy()
    _post(by_other, entries.part_paid_again(paid))
    assert (+by_other, -by_other) == (+at_once, -at_once), "another transfer pays all of it"
    _post(balance, entries.of_transition(State.PAID, to, paid))
    _post(at_once, entries.of_transition(State.PAID, to, replace(sum_, fee=0)))
    if to is not State.PAID:
        assert (+balance, -balance) == (+at_once, -at_once)


def _post(balance: Counter[LedgerAccount], entries: list[Entry]) -> None:
    for each in entries:
        balance[each.source] -= each.amount
        balance[each.target] += each.amount


def test_what_fails_is_tried_four_times_more_ever_later() -> None:
    waits = [domain.retry_after(failures) for failures in range(1, domain.MOST_FAILURES)]
    assert waits == [timedelta(hours=hours) for hours in (1, 2, 4, 8)]
    assert domain.retry_after(domain.MOST_FAILURES) is None


DOUALA = Schedule(kind="daily", hour=6, zone="Africa/Douala")
PARIS = Schedule(kind="daily", hour=9, zone="Europe/Paris")


@pytest.mark.parametrize(
    ("schedule", "after", "next_"),
    [
        # Douala is an hour ahead of UTC all year.
        (DOUALA, "2026-11-21T04:59", "2026-11-21T05:00"),
        (DOUALA, "2026-11-21T05:00", "2026-11-22T05:00"),
        # Summer time ends on 25 October 2026.
        (PARIS, "2026-10-24T08:00", "2026-10-25T08:00"),
        (Schedule(kind="weekly", weekday=7, hour=0), "2026-11-21T00:00", "2026-11-22T00:00"),
        (Schedule(kind="weekly", weekday=1, hour=0), "2026-11-21T00:00", "2026-11-23T00:00"),
    ],
)  # fmt: skip
def test_schedules_keep_their_time_zone(schedule: Schedule, after: str, next_: str) -> None:
    moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert next_payout(schedule, moment) == datetime.fromisoformat(next_).replace(tzinfo=UTC)


def test_an_audit_entry_s_hash_covers_everything_in_it() -> None:
    action = Action(
        at=datetime(2026, 11, 21, tzinfo=UTC),
        tenant="market",
        actor=Actor("ama", "approver"),
        action="approve",
        subject="payout/1",
        before="scheduled",
        after="approved",
        reason="checked",
        posted=[Posting("r", "USD", Entry(LedgerAccount.AVAILABLE, LedgerAccount.PENDING, 5), "1")],
    )
    (row,) = audit_log.chain((0, audit_log.FIRST_HASH), [action])
    assert audit_log.digest(audit_log.FIRST_HASH, row) == row["hash"]
    assert audit_log.digest("1" * 64, row) != row["hash"]
    for column in row.keys() - {"hash"}:
        changed = row | {column: _another(row[column])}
        assert audit_log.digest(audit_log.FIRST_HASH, changed) != row["hash"], column


def _another(value: Any) -> Any:
    match value:
        case int():
            return value + 1
        case str():
            return value + "x"
        case datetime():
            return value + timedelta(microseconds=1)
        case _:
            return value | {"x": 1}


def test_a_late_report_of_an_earlier_transfer_leaves_the_newest_attempt_unknown() -> None:
    """Its money must not become available while the newest attempt may have paid it."""
    first = Transfer(transfer_id="t1", transfer_status=TransferStatus.RETURNED.value)
    row = Payout(id="p", state=State.UNKNOWN.value, transfer_id="t1")
    only = PayoutHistory(row, [Attempt(number=1, transfer_id="t1")], [first])
    assert transfer_to_follow(only, first, news=True) == (first, State.RETURNED)
    only.attempts.append(Attempt(number=2, transfer_id=None))
    assert transfer_to_follow(only, first, news=True) is None

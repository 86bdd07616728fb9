"""An order's transitions, and the decision on each payment."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Conflict
from orders.domain import SOLD, LateRule, PaymentDecision, State, decide_payment, require_transition

_TOTAL = (1000, "XAF")
_TAKEN = {PaymentDecision.ACCEPTED, PaymentDecision.REOPENED}


@given(
    st.sampled_from(State),
    st.integers(0, 3000),
    st.sampled_from(["XAF", "EUR"]),
    st.sampled_from(LateRule),
    st.booleans(),
)
def test_all_money_either_pays_the_order_or_goes_back(
    state: State, amount: int, currency: str, late: LateRule, by_clock: bool
) -> None:
    verdict, back = decide_payment(
        state, total=_TOTAL, came=(amount, currency), late=late, by_clock=by_clock
    )
    assert amount - back == (_TOTAL[0] if verdict in _TAKEN else 0)
    if verdict in _TAKEN:
        assert currency == _TOTAL[1]
        require_transition(state, State.PAID)


@pytest.mark.parametrize(
    ("state", "amount", "late", "by_clock", "verdict"),
    [
        (State.PLACED, 1000, LateRule.REFUND, True, PaymentDecision.ACCEPTED),
        (State.AWAITING_PAYMENT, 999, LateRule.REFUND, True, PaymentDecision.WRONG),
        (State.CANCELLED, 1000, LateRule.REFUND, True, PaymentDecision.LATE),
        (State.CANCELLED, 1000, LateRule.REOPEN, True, PaymentDecision.REOPENED),
        (State.CANCELLED, 1000, LateRule.REOPEN, False, PaymentDecision.LATE),
        (State.PAID, 1000, LateRule.REOPEN, True, PaymentDecision.DOUBLE),
        (State.REFUNDED, 1000, LateRule.REOPEN, True, PaymentDecision.DOUBLE),
    ],
)
def test_what_money_is_taken_for(
    state: State, amount: int, late: LateRule, by_clock: bool, verdict: PaymentDecision
) -> None:
    found, _ = decide_payment(
        state, total=_TOTAL, came=(amount, "XAF"), late=late, by_clock=by_clock
    )
    assert found is verdict


def test_there_is_no_other_step() -> None:
    allowed = set()
    for before, after in product(State, State):
        try:
            require_transition(before, after)
        except Conflict:
            continue
        allowed.add((before, after))
    assert len(allowed) == 11
    assert not {after for before, after in allowed if before is State.REFUNDED}
    assert {before for before, after in allowed if after is State.REFUNDED} == SOLD


@pytest.mark.parametrize(
    ("late", "by_clock", "in_time", "verdict", "back"),
    [
        (LateRule.REFUND, True, False, PaymentDecision.LATE, 500),
        (LateRule.REOPEN, True, False, PaymentDecision.REOPENED, 0),
        # Paid in time, reported late: the order is reopened under either rule.
        (LateRule.REFUND, True, True, PaymentDecision.REOPENED, 0),
        # An operator or user has cancelled it: it is never reopened.
        (LateRule.REOPEN, False, False, PaymentDecision.LATE, 500),
        (LateRule.REOPEN, False, True, PaymentDecision.LATE, 500),
    ],
)
def test_money_for_a_cancelled_order(
    late: LateRule, by_clock: bool, in_time: bool, verdict: PaymentDecision, back: int
) -> None:
    found = decide_payment(
        State.CANCELLED,
        total=(500, "USD"),
        came=(500, "USD"),
        late=late,
        by_clock=by_clock,
        in_time=in_time,
    )
    assert found == (verdict, back)

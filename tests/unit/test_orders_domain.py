"""What money that comes for an order is taken for."""

from __future__ import annotations

import pytest

from orders.domain import LateRule, State, Verdict, judge


@pytest.mark.parametrize(
    ("late", "by_clock", "in_time", "verdict", "back"),
    [
        (LateRule.REFUND, True, False, Verdict.LATE, 500),
        (LateRule.REOPEN, True, False, Verdict.REOPENED, 0),
        # Paid in time, heard of late: whatever the rule, the buyer did their part.
        (LateRule.REFUND, True, True, Verdict.REOPENED, 0),
        # A person has cancelled it: nothing opens it again.
        (LateRule.REOPEN, False, False, Verdict.LATE, 500),
        (LateRule.REOPEN, False, True, Verdict.LATE, 500),
    ],
)
def test_money_for_a_cancelled_order(
    late: LateRule, by_clock: bool, in_time: bool, verdict: Verdict, back: int
) -> None:
    found = judge(
        State.CANCELLED,
        total=(500, "USD"),
        came=(500, "USD"),
        late=late,
        by_clock=by_clock,
        in_time=in_time,
    )
    assert found == (verdict, back)

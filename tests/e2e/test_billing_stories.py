"""Commands are repeated, lost before and after the work, and resent in any order, concurrently with
their webhooks: each is executed once, and both sides end in the same state, although Stripe's
events have a resolution of one second and many commands fall into one."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conftest import MakePaybus
from devstack.processes.system import introduce
from support.billing import (
    PROCESSES,
    a_customer,
    behave,
    call,
    offer,
    price,
    stripe,
    subscriptions,
)
from support.paybus import Paybus
from support.waiting import until

_VERBS: dict[str, tuple[str, dict[str, Any]]] = {
    "subscribe": ("customers/{customer}/subscriptions", {"plan_id": "gold"}),
    "gold": ("subscriptions/{subscription}/plan", {"plan_id": "gold"}),
    "silver": ("subscriptions/{subscription}/plan", {"plan_id": "silver"}),
    "cancel": ("subscriptions/{subscription}/cancel", {"when": "period_end"}),
    "end": ("subscriptions/{subscription}/cancel", {"when": "now"}),
    "resume": ("subscriptions/{subscription}/resume", {}),
}
_MODES = ("well", "fail", "fail_after", "hang_after")
_STATUS = {"active": "active", "canceled": "cancelled"}

steps = st.lists(
    st.tuples(st.sampled_from(sorted(_VERBS)), st.sampled_from(_MODES), st.integers(1, 2)),
    min_size=1,
    max_size=4,  # fewer failures in a row than open the circuit
)


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(
        PROCESSES, PROVIDER_TIMEOUT_SECONDS="0.6", BILLING_QUIET_SECONDS="0"
    ) as paybus:
        introduce(paybus.layout)
        offer(paybus)
        yield paybus


@pytest.mark.timeout(400)
@settings(max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(story=steps, order=st.randoms(use_true_random=False))
@example(story=[("cancel", "hang_after", 1), ("resume", "fail_after", 1)], order=Random(0)).via(
    "the earlier one, sent again first, waits for the later one"
)
def test_each_command_is_done_once_and_both_sides_end_alike(
    paybus: Paybus, story: list[tuple[str, str, int]], order: Any
) -> None:
    theirs, customer, subscription = a_customer(paybus)
    names = {"customer": customer, "subscription": subscription}
    sent: list[tuple[str, str, dict[str, Any]]] = []
    for verb, mode, times in story:
        path, body = _VERBS[verb]
        command = (path.format(**names), uuid4().hex, body)
        sent.append(command)
        behave(paybus, mode)
        for _ in range(times):
            assert _send(paybus, command) in {200, 201, 202, 422, 503}
        behave(paybus, "well")
    order.shuffle(sent)
    until(lambda: _all_ended(paybus, sent), what="each is done, or refused")
    before = _at_stripe(paybus, theirs)
    for command in sent:
        _send(paybus, command)
    after = _at_stripe(paybus, theirs)
    assert after == before, "what is done is not done again"
    subscribed = sum(path.startswith("customers/") for path, _, _ in sent)
    assert len(after) == 1 + subscribed
    until(lambda: _here(paybus, customer) == after, what="both sides say the same")


def _all_ended(paybus: Paybus, commands: list[tuple[str, str, dict[str, Any]]]) -> bool:
    """Send all commands again: an earlier accepted one waits for a later one."""
    answers = {_send(paybus, each) for each in commands}
    return answers <= {200, 201, 422}


def _send(paybus: Paybus, command: tuple[str, str, dict[str, Any]]) -> int:
    path, key, body = command
    return call(paybus, "POST", path, json=body, key=key).status_code


def _at_stripe(paybus: Paybus, customer: str) -> dict[str, tuple[str, str, bool]]:
    found = stripe(paybus, "GET", f"subscriptions?customer={customer}&status=all&limit=100")
    return {
        each["id"]: (_STATUS[each["status"]], price(each), each["cancel_at_period_end"])
        for each in found["data"]
    }


def _here(paybus: Paybus, customer: str) -> dict[str, tuple[str, str, bool]]:
    found = subscriptions(paybus, customer)  # first: a plan may become known in between
    plans = call(paybus, "GET", "plans").json()["items"]
    names = {each["id"]: each["provider_plan_id"] for each in plans}
    return {
        each["provider_subscription_id"]: (
            each["status"],
            names.get(each["plan_id"], ""),  # not yet known if its payment came first
            each["cancel_at_period_end"],
        )
        for each in found
    }

"""Commands on one subscription are serialized: of the executed ones the last applies, and accepted
commands are executed whatever the result of the others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from conftest import MakePaybus
from devstack.processes.system import introduce
from support.billing import (
    PROCESSES,
    a_customer,
    behave,
    call,
    done,
    offer,
    price,
    stripe,
    take_up,
    until_called,
    until_confirmed,
)
from support.paybus import Paybus, cut
from support.waiting import until


@contextmanager
def _shop(make_paybus: MakePaybus, *, quiet: int, timeout: int = 2) -> Iterator[Paybus]:
    """Run a shop; `quiet` is how many seconds Stripe may still process an unanswered call."""
    settings = {
        "PROVIDER_TIMEOUT_SECONDS": str(timeout),
        "RENEWALS_INTERVAL_SECONDS": "600",
        "BILLING_QUIET_SECONDS": str(quiet),
    }
    with make_paybus(**settings) as paybus:
        accounts = paybus.layout.accounts
        key = 'api_key = "sk_test_development"'
        one = f"{key}\nmax_concurrency = 1\ncircuit_reset_seconds = 1"
        accounts.write_text(accounts.read_text().replace(key, one))
        paybus.start(*PROCESSES)
        introduce(paybus.layout)
        offer(paybus)
        yield paybus


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with _shop(make_paybus, quiet=0) as paybus:
        yield paybus


def _command(paybus: Paybus, id_: str) -> dict[str, Any]:
    query = "SELECT status, begun, ended FROM billing_commands WHERE id = %s"
    return dict(
        zip(("status", "begun", "ended"), paybus.sql("subscription", query, id_)[0], strict=True)
    )


def _at_stripe(paybus: Paybus, customer: str) -> list[dict[str, Any]]:
    found = stripe(paybus, "GET", f"subscriptions?customer={customer}&status=all")["data"]
    return list(found)


def _accepted(paybus: Paybus, path: str, **body: Any) -> str:
    """Send a command to which Stripe does not respond; return its id."""
    behave(paybus, "hang")
    answer = call(paybus, "POST", path, json=body)
    behave(paybus, "well")
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


@pytest.mark.parametrize("second", ["not taken", "refused"])
def test_what_was_accepted_is_done_although_a_later_command_is_not(
    paybus: Paybus, second: str
) -> None:
    theirs, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}"
    first = _accepted(paybus, f"{path}/cancel", when="now")
    if second == "not taken":
        behave(paybus, "too_often")
        again = call(paybus, "POST", f"{path}/cancel", json={"when": "now"})
        behave(paybus, "well")
        assert again.status_code == 503
    else:
        again = call(paybus, "POST", f"{path}/plan", json={"plan_id": "no-such-plan"})
        assert again.status_code == 422
    take_up(paybus, first)
    until(lambda: _command(paybus, first)["status"] == "done", what="it is done")
    assert [each["status"] for each in _at_stripe(paybus, theirs)] == ["canceled"]


def test_what_a_later_command_took_the_place_of_is_not_done_after_it(
    make_paybus: MakePaybus,
) -> None:
    """The first was accepted, and waits for a slot while the later one is executed."""
    # Long enough for everything below to happen while one call hangs, even on a busy machine.
    with _shop(make_paybus, quiet=0, timeout=8) as paybus:
        _, _, other = a_customer(paybus)
        theirs, _, subscription = a_customer(paybus)
        path = f"subscriptions/{subscription}"
        until_confirmed(paybus, done(paybus, "POST", f"{path}/cancel", json={}))
        resumption = _accepted(paybus, f"{path}/resume")
        busy = _accepted(paybus, f"subscriptions/{other}/cancel", when="period_end")
        behave(paybus, "hang")
        take_up(paybus, busy)
        until_called(paybus)  # it takes the worker's only place
        take_up(paybus, resumption)
        behave(paybus, "well")
        done(paybus, "POST", f"{path}/cancel", json={})

        def refused() -> bool:
            # A worker waits two seconds for a slot, and then leaves the command to the job.
            take_up(paybus, resumption)
            return bool(_command(paybus, resumption)["status"] == "refused")

        until(refused, what="it is refused", pause=0.5)
        (found,) = _at_stripe(paybus, theirs)
        assert found["cancel_at_period_end"]


def test_a_command_waits_for_the_one_that_is_under_way(paybus: Paybus) -> None:
    """Otherwise the earlier one could be applied last, and both would be reported as done."""
    theirs, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}"
    until_confirmed(paybus, done(paybus, "POST", f"{path}/cancel", json={}))
    resumption = _accepted(paybus, f"{path}/resume")
    behave(paybus, "well", delay=1)
    take_up(paybus, resumption)
    until(lambda: _command(paybus, resumption)["begun"] == 2, what="a worker has it under way")
    done(paybus, "POST", f"{path}/cancel", json={})
    behave(paybus, "well")
    assert _command(paybus, resumption)["status"] == "done"
    (found,) = _at_stripe(paybus, theirs)
    assert found["cancel_at_period_end"], "the last one holds"


def test_a_command_waits_for_what_stripe_may_still_be_at(make_paybus: MakePaybus) -> None:
    """The response came too late, and Stripe executes the call afterwards."""
    with _shop(make_paybus, quiet=10) as paybus:
        theirs, _, subscription = a_customer(paybus)
        path = f"subscriptions/{subscription}"
        behave(paybus, "well", delay=4)
        first = call(paybus, "POST", f"{path}/cancel", json={"when": "now"})
        behave(paybus, "well")
        assert first.status_code == 202
        second = call(paybus, "POST", f"{path}/plan", json={"plan_id": "gold"})
        assert second.status_code == 503
        assert "another command" in second.json()["detail"]
        until(
            lambda: [each["status"] for each in _at_stripe(paybus, theirs)] == ["canceled"],
            what="it is carried out",
        )
        take_up(paybus, first.json()["id"])
        until(lambda: _command(paybus, first.json()["id"])["status"] == "done", what="it is done")


def test_what_could_not_be_written_down_is_not_said_to_be_undone(make_paybus: MakePaybus) -> None:
    """The database fails while Stripe is at work: a 503 would promise no execution."""
    with _shop(make_paybus, quiet=0) as paybus:
        theirs, customer, _ = a_customer(paybus)
        path, key = f"customers/{customer}/subscriptions", "undecided"
        behave(paybus, "hold")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(call, paybus, "POST", path, json={"plan_id": "gold"}, key=key)
            until_called(paybus)
            cut(paybus, "subscription", "ALLOW_CONNECTIONS false")
            behave(paybus, "well")
            answer = asked.result()
        cut(paybus, "subscription", "ALLOW_CONNECTIONS true")
        assert answer.status_code == 500
        assert "the same Idempotency-Key" in answer.json()["detail"]
        done(paybus, "POST", path, json={"plan_id": "gold"}, key=key)
        assert [price(each) for each in _at_stripe(paybus, theirs)].count("gold") == 1


def test_nobody_gives_up_a_command_that_another_request_has_under_way(paybus: Paybus) -> None:
    """Its process died; the same request is repeated and slow when the job checks the command."""
    theirs, customer, _ = a_customer(paybus)
    path = f"customers/{customer}/subscriptions"
    behave(paybus, "too_often")
    assert call(paybus, "POST", path, json={"plan_id": "gold"}, key="died").status_code == 503
    paybus.sql(
        "subscription",
        "UPDATE billing_commands SET status = 'open', begun = 1, ended = 0 "
        "WHERE idempotency_key = 'died'",
    )
    ((id_,),) = paybus.sql(
        "subscription", "SELECT id FROM billing_commands WHERE idempotency_key = 'died'"
    )
    behave(paybus, "hang_after", delay=1)
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(call, paybus, "POST", path, json={"plan_id": "gold"}, key="died")
        until(lambda: _command(paybus, id_)["begun"] == 2, what="it is under way again")
        take_up(paybus, id_)
        assert again.result().status_code == 202, "it is not told that it is never done"
    behave(paybus, "well")
    take_up(paybus, id_)
    until(lambda: _command(paybus, id_)["status"] == "done", what="it is done")
    assert [price(each) for each in _at_stripe(paybus, theirs)].count("gold") == 1


def test_a_change_that_is_refused_leaves_what_was_planned(paybus: Paybus) -> None:
    _, _, subscription = a_customer(paybus)
    path = f"subscriptions/{subscription}/plan"
    later = done(paybus, "POST", path, json={"plan_id": "gold", "when": "period_end"})
    refused = call(paybus, "POST", path, json={"plan_id": "no-such-plan"})
    assert refused.status_code == 422
    schedule = stripe(paybus, "GET", f"subscription_schedules/{later['result']['schedule']}")
    assert schedule["status"] == "active"

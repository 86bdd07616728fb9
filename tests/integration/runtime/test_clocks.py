"""Machines with a wrong clock: nothing is lost or delayed, and a metric shows the difference."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from conftest import MakePaybus
from support.clocks import ahead
from support.waiting import until


def test_a_machine_whose_clock_is_wrong_moves_no_job_and_says_so(make_paybus: MakePaybus) -> None:
    """The process's clock is 400 days ahead; jobs use the database's time."""
    with make_paybus(["provisioning-worker"], **ahead("+400d")) as paybus:
        paybus.sql("provisioning", "UPDATE schedules SET next_run_at = now()")
        ran = "SELECT count(*) FROM schedules WHERE last_outcome = 'succeeded'"
        until(lambda: paybus.sql("provisioning", ran) == [(3,)], what="each ran")
        allowed = "SELECT max(next_run_at) < now() + interval '1 day', max(last_run_at) < now() "
        assert paybus.sql("provisioning", f"{allowed} FROM schedules") == [(True, True)]
        days = paybus.metric("provisioning-worker", "paybus_clock_ahead_seconds") / 86400
        assert 399 < days < 401


def test_a_window_of_the_journal_has_what_a_gateway_with_another_clock_recorded(
    make_paybus: MakePaybus,
) -> None:
    """The broker finds the window's start by its own clock, which is behind."""
    with make_paybus(["operations-api", "operations-worker", "subscription-worker"]) as paybus:
        spec = paybus.layout.spec("webhook-gateway")
        early = {**spec.env, **ahead("+20s")}
        paybus.system.start_one(replace(spec, env=early)).wait_ready()
        paybus.subscribe()
        mine = "provider_subscription.created"
        (event,) = until(
            lambda: [each for each in paybus.journal() if each["type"] == mine], what="it is there"
        )
        recorded = datetime.fromisoformat(event["recordedtime"])
        window = {
            "queue": "subscription.billing",
            "since": (recorded - timedelta(seconds=1)).isoformat(),
            "until": (recorded + timedelta(seconds=1)).isoformat(),
        }
        ordered = paybus.api(
            "POST", "operations", "/v1/journal/replays", json={"window": window, "reason": "?"}
        )
        assert ordered.status_code == 202, ordered.text
        path = f"/v1/replays/{ordered.json()['id']}"
        done = until(
            lambda: (
                (found := paybus.api("GET", "operations", path).json())["state"] == "done" and found
            ),
            what="it is done",
        )
        assert sum(done["counts"].values()) == 1

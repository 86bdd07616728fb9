"""Operators inspect failures and replay them, each message once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from common.contracts.payments import PaymentOutcome
from common.contracts.payouts import ProcessPayout
from common.messaging import dead_letter
from common.messaging.events import new_event
from conftest import MakePaybus
from devstack import warm
from fuzz.sizes import peak_bytes
from support.console import Browser
from support.operations import (
    PROCESSES,
    QUICK,
    get,
    groups,
    letters,
    post,
    replay,
    until_done,
    until_open,
)
from support.organizations import break_provisioning, until_status
from support.paybus import Paybus
from support.payouts import earned
from support.waiting import until

# The default is 0; for a long stop: `PAYBUS_STOPPED_SECONDS=3600 make test PYTEST_ARGS="-k
# is_stopped"`.
_STOPPED_SECONDS = float(os.environ.get("PAYBUS_STOPPED_SECONDS", "0"))
_DIED = "2026-11-22T10:00:00+00:00"
_OTHERS = [
    "webhook-gateway",
    "subscription-worker",
    "subscription-api",
    "provisioning-worker",
    "provisioning-api",
    "sandbox-backend",
]


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus([*PROCESSES, *_OTHERS], BACKEND_TIMEOUT_SECONDS="2", **QUICK) as paybus:
        yield paybus


def test_a_group_of_failures_is_replayed_when_the_cause_is_mended(paybus: Paybus) -> None:
    numbers = break_provisioning(paybus, 10)
    until_open(paybus, 10, queue="provisioning.organizations")
    (group,) = groups(paybus, queue="provisioning.organizations")
    assert (group["type"], group["count"]) == ("organization.reconcile", 10)
    assert (group["last_hour"], group["previous_hour"]) == (10, 0)
    assert "503" not in group["summary"], "numbers differ from one to the next"
    one = letters(paybus, group=group["id"])[0]
    detail = get(paybus, f"dead-letters/{one['id']}")
    assert (detail["attempts"], len(detail["history"])) == (5, 5)
    assert "503" in detail["error"]
    assert "provisioner.py" in detail["stack"]
    assert paybus.messages("provisioning.organizations.dead") == [], "it has left the broker"
    forecast = post(
        paybus,
        "replays",
        {"filter": {"group": group["id"]}, "reason": "?", "dry_run": True},
    )
    assert forecast == {"send": {"provisioning.organizations": 10}, "skip": {}}
    paybus.backend(mode="well")
    id_ = replay(paybus, filter={"group": group["id"]})
    assert until_done(paybus, id_) == {"succeeded": 10}
    for number in numbers:
        until_status(paybus, number, "provisioned")
    references = [each["reference"] for each in paybus.books()["organizations"]]
    assert len(references) == len({*references}), "each organization exists once"
    assert groups(paybus, group=group["id"]) == []
    assert len(letters(paybus, group=group["id"], state="succeeded")) == 10
    items = get(paybus, f"replays/{id_}/items")["items"]
    assert [each["state"] for each in items] == ["succeeded"] * 10
    done = get(paybus, "actions")["items"][0]
    assert (done["action"], done["subject"], done["actor"]) == (
        "replay",
        f"replay/{id_}",
        "dev-operator",
    )


def test_what_fails_again_comes_back_to_its_group(paybus: Paybus) -> None:
    break_provisioning(paybus, 2)
    until_open(paybus, 2)
    (group,) = groups(paybus)
    id_ = replay(paybus, filter={"group": group["id"]})
    assert until_done(paybus, id_) == {"failed_again": 2}
    (again,) = groups(paybus)
    assert (again["id"], again["count"]) == (group["id"], 2)
    assert {each["failure_count"] for each in letters(paybus)} == {2}
    paybus.backend(mode="well")
    assert until_done(paybus, replay(paybus)) == {"succeeded": 2}


def test_a_list_reads_nothing_of_what_was_sent(paybus: Paybus) -> None:
    """Otherwise a page of large messages would exceed a pod's memory."""
    fill = """
        INSERT INTO dead_letters (id, queue, state, group_id, type, sealed_body, headers, text,
                                  reason,
                             error, stack, attempts, history, dead_lettered_at, correlation_id)
        SELECT 'large-' || n, 'subscription.billing', 'open', 'large', 'large.one', sealed, '{}',
               'x', 'permanent', 'x', 'x', 1, '[]', now(), 'large'
        FROM (SELECT decode(repeat('ab', 1048576), 'hex') AS sealed) AS one,
             generate_series(1, 100) AS n
    """
    paybus.sql("operations", fill)
    pid = paybus.system.processes["operations-api"].pid
    get(paybus, "dead-letters", limit=1)
    before = peak_bytes(pid)
    try:
        assert len(get(paybus, "dead-letters", type="large.one", limit=100)["items"]) == 100
        assert len(get(paybus, "journal/trace/large")["dead_letters"]) == 100
        assert "large.one" in Browser(paybus, role="viewer").see("/dead-letters?type=large.one")
    finally:
        paybus.sql("operations", "DELETE FROM dead_letters WHERE group_id = 'large'")
    assert peak_bytes(pid) - before < 20 * 2**20


def test_a_letter_has_no_more_notes_than_can_be_shown(paybus: Paybus) -> None:
    paybus.publish("subscription.billing", "noted")
    until_open(paybus, 1, queue="subscription.billing")
    (letter,) = letters(paybus, queue="subscription.billing")
    fill = """
        INSERT INTO dead_letter_notes (id, dead_letter_id, actor, text)
        SELECT 'n' || n, %s, 'x', 'x' FROM generate_series(1, 200) AS n
    """
    paybus.sql("operations", fill, letter["id"])
    path = f"/v1/dead-letters/{letter['id']}"
    body = {"text": "one more"}
    answer = paybus.api("POST", "operations", f"{path}/notes", json=body, role="operator")
    assert (answer.status_code, "up to 200 notes" in answer.text) == (409, True)
    assert len(get(paybus, f"dead-letters/{letter['id']}")["notes"]) == 200
    post(paybus, "dead-letters/discard", {"ids": [letter["id"]], "reason": "a test"})


def test_what_no_service_understands_is_kept_as_it_is(paybus: Paybus) -> None:
    bodies = ["no JSON at all \x00", "[]", '{"type": "unheard.of", "id": "1", "source": "/x"}']
    for body in bodies:
        paybus.publish("subscription.billing", body)
        paybus.publish("subscription.billing", body)
    until_open(paybus, 3, queue="subscription.billing")
    found = letters(paybus, queue="subscription.billing")
    assert {each["type"] for each in found} == {"undecodable", "unheard.of"}
    assert {each["reason"] for each in found} == {"undecodable"}
    id_ = replay(paybus, ids=[each["id"] for each in found])
    assert until_done(paybus, id_) == {"failed_again": 3}
    moved = post(
        paybus,
        "dead-letters/discard",
        {"filter": {"queue": "subscription.billing"}, "reason": "nobody can read them"},
    )
    assert moved == {"count": 3}
    assert groups(paybus, queue="subscription.billing") == []
    again = paybus.api("POST", "operations", "/v1/replays", json={"filter": {}, "reason": "?"})
    assert (again.status_code, "nothing to replay" in again.text) == (409, True)
    restored = {"ids": [found[0]["id"]], "reason": "once more"}
    assert post(paybus, "dead-letters/restore", restored) == {"count": 1}
    assert post(paybus, "dead-letters/archive", restored) == {"count": 1}


def test_a_paused_replay_sends_nothing_until_it_goes_on(paybus: Paybus) -> None:
    break_provisioning(paybus, 6)
    until_open(paybus, 6)
    paybus.backend(mode="well")
    id_ = replay(paybus, rate=1, concurrency=1)
    path = f"replays/{id_}"
    assert post(paybus, f"{path}/pause", {"reason": "wait"})["state"] == "paused"

    def flying() -> int:
        counts = get(paybus, path)["counts"]
        return sum(counts.get(state, 0) for state in ("sending", "sent"))

    until(lambda: not flying(), what="nothing is under way")
    waiting = get(paybus, path)["counts"]["waiting"]
    assert waiting >= 4
    locked = paybus.api("POST", "operations", "/v1/replays", json={"filter": {}, "reason": "mine"})
    assert locked.status_code == 409, "each message is in one replay at a time"
    assert post(paybus, f"{path}/resume", {"reason": "go"})["state"] == "running"
    until(lambda: get(paybus, path)["counts"].get("waiting", 0) < waiting, what="it goes on")
    assert post(paybus, f"{path}/cancel", {"reason": "enough"})["state"] == "cancelled"
    until(lambda: not flying(), what="what was sent is settled")
    counts = get(paybus, path)["counts"]
    assert counts["skipped"] + counts["succeeded"] == 6
    assert len(letters(paybus)) == counts["skipped"]
    assert until_done(paybus, replay(paybus)) == {"succeeded": counts["skipped"]}


def test_each_action_needs_its_role_and_its_tenant(paybus: Paybus) -> None:
    paybus.publish("subscription.billing", "not for everybody")
    until_open(paybus, 1)
    (one,) = letters(paybus)
    wanted = {"ids": [one["id"]], "reason": "?"}
    for path in ("replays", "dead-letters/discard", "dead-letters/archive"):
        refused = paybus.api("POST", "operations", f"/v1/{path}", json=wanted, role="viewer")
        assert refused.status_code == 403, path
    edit = f"/v1/dead-letters/{one['id']}/edit"
    data: dict[str, Any] = {"changes": {"a": 1}, "reason": "?"}
    assert paybus.api("POST", "operations", edit, json=data).status_code == 403
    off = paybus.api("POST", "operations", edit, json=data, role="admin")
    assert (off.status_code, "EDIT_AND_REPLAY_ENABLED" in off.text) == (403, True)
    path = f"/v1/dead-letters/{one['id']}"
    assert paybus.api("GET", "operations", path, tenant="other").status_code == 404
    listed = paybus.api("GET", "operations", "/v1/dead-letters", tenant="other")
    assert listed.json()["items"] == []
    window = {
        "window": {
            "queue": "subscription.billing",
            "since": "2026-11-01T00:00:00Z",
            "until": "2030-01-01T00:00:00Z",
            "new_ids": True,
        },
        "reason": "?",
    }
    ids = paybus.api("POST", "operations", "/v1/journal/replays", json=window)
    assert (ids.status_code, "admin" in ids.text) == (403, True)
    post(paybus, "dead-letters/discard", wanted)


def test_secrets_and_personal_data_are_masked(paybus: Paybus) -> None:
    event = {
        "type": "x.y",
        "data": {"email": "ama@example.com", "note": "write to ama@example.com", "amount": 5},
        "token": "whsec_abcdefgh",
    }
    paybus.publish("subscription.billing", json.dumps(event))
    until_open(paybus, 1)
    (one,) = letters(paybus)
    answer = paybus.api("GET", "operations", f"/v1/dead-letters/{one['id']}")
    assert "ama@example.com" not in answer.text
    assert "whsec_abcdefgh" not in answer.text
    assert answer.json()["payload"]["data"]["amount"] == 5
    assert letters(paybus, text='"AMOUNT": 5') == [one]
    for hidden in ("ama@example", "ama@", "whsec_a", "abcdefgh"):
        assert letters(paybus, text=hidden) == [], "else it could be found out letter by letter"
        assert letters(paybus, error=hidden) == []
    post(paybus, "dead-letters/discard", {"ids": [one["id"]], "reason": "a test"})


def test_what_is_named_by_an_address_or_a_card_is_masked_everywhere(paybus: Paybus) -> None:
    address, card = "named.so@example.com", "4242424242424242"
    event = json.loads(failed_payment(card, event_id=address, subject=address))
    event["data"]["currency"] = "not one"
    paybus.publish_to("payments", "payment.failed", json.dumps(event))
    until_open(paybus, 1)
    (one,) = letters(paybus)
    browser = Browser(paybus, role="viewer")
    seen = [
        paybus.api("GET", "operations", path).text
        for path in (
            "/v1/dead-letters",
            f"/v1/dead-letters/{one['id']}",
            "/v1/journal?type=payment.failed&limit=200",
            "/v1/dead-letters/groups",
        )
    ]
    pages = ("/dead-letters", f"/dead-letters/{one['id']}", "/journal", "/groups")
    seen += [browser.see(path) for path in pages]
    seen += [paybus.log(name) for name in ("subscription-worker", "operations-worker")]
    for text in seen:
        assert address not in text
        assert card not in text
    post(paybus, "dead-letters/discard", {"ids": [one["id"]], "reason": "a test"})


def test_a_payment_s_life_is_one_trace_and_a_window_changes_nothing(paybus: Paybus) -> None:
    number = paybus.subscribe()
    until_status(paybus, number, "provisioned")

    def trace() -> dict[str, Any] | None:
        found = get(paybus, "journal", type="organization.provisioned", limit=200)["items"]
        for each in found:
            steps: dict[str, Any] = get(paybus, f"journal/trace/{each['correlation_id']}")
            if number in steps["steps"][0]["entry"]["subject"]:
                return steps
        return None

    found = until(trace, what="its whole life is in the journal")
    assert found is not None
    types = [each["entry"]["type"] for each in found["steps"]]
    assert types[0] == "provider_subscription.created"
    assert types[-1] == "organization.provisioned"
    assert found["steps"][-1]["after_seconds"] > 0
    before = sorted(each["reference"] for each in paybus.books()["organizations"])
    first = found["steps"][0]["entry"]["recorded_at"]
    window = {"queue": "subscription.billing", "since": first, "until": "2030-01-01T00:00:00Z"}
    ordered = post(paybus, "journal/replays", {"window": window, "reason": "to see"})
    counts = until_done(paybus, ordered["id"])
    assert set(counts) == {"already_done"}
    assert counts["already_done"] >= 1
    assert sorted(each["reference"] for each in paybus.books()["organizations"]) == before
    assert paybus.api("GET", "operations", "/v1/journal/trace/nothing").status_code == 404


def failed_payment(id_: str, *, event_id: str | None = None, subject: str | None = None) -> str:
    """Return the event of a failed payment; its id defaults to the payment's."""
    event = new_event(
        id=event_id or id_,
        type="payment.failed",
        source="/test",
        subject=subject or id_,
        tenant="default",
        data=PaymentOutcome(
            provider="stripe", payment_id=id_, customer_id=None, amount=1, currency="USD"
        ),
    )
    return event.encode().decode()


def buried(paybus: Paybus, count: int) -> list[str]:
    """Dead-letter payments that the subscription service could not write; return their ids."""
    ids = [f"{uuid4().hex[:8]}-{number}" for number in range(count)]
    for id_ in ids:
        event = failed_payment(id_)
        headers = {dead_letter.ERROR: "DiskFull: no space is left", dead_letter.DEAD_SINCE: _DIED}
        paybus.publish("subscription.billing.dead", event, headers=headers)
    return ids


def test_operations_that_are_killed_send_nothing_twice(paybus: Paybus) -> None:
    ids = buried(paybus, 300)
    until_open(paybus, 300)
    paybus.system.processes["subscription-worker"].stop()
    id_ = replay(paybus, rate=100, concurrency=50)

    def counts() -> dict[str, int]:
        found: dict[str, int] = get(paybus, f"replays/{id_}")["counts"]
        return found

    until(lambda: counts().get("sending", 0) == 50, what="as many as may be are with the broker")
    paybus.system.processes["operations-worker"].kill()
    # As if it had been killed before it could store the broker's confirms.
    paybus.sql("operations", "UPDATE replays SET confirmed_position = -1 WHERE id = %s", id_)
    paybus.start("operations-worker")
    until(lambda: counts().get("sent", 0) == 50, what="who takes over has seen that they were sent")
    paybus.start("subscription-worker")
    for seen in (30, 120, 210):
        until(lambda: get(paybus, f"replays/{id_}")["completed"] >= seen, what="some are settled")
        paybus.system.processes["operations-worker"].kill()
        paybus.start("operations-worker")
    assert until_done(paybus, id_) == {"succeeded": 300}
    twice = paybus.metric(
        "subscription-worker",
        "paybus_messages_consumed_total",
        queue="subscription.billing",
        outcome="duplicate",
    )
    assert twice == 0, "none was sent twice"
    query = "SELECT count(*) FROM payments WHERE provider_payment_id = ANY(%s)"
    assert paybus.sql("subscription", query, ids) == [(300,)]


@pytest.mark.timeout(180 + 2 * _STOPPED_SECONDS)
def test_while_operations_is_stopped_nothing_is_lost_and_nobody_notices(paybus: Paybus) -> None:
    for name in PROCESSES:
        paybus.system.processes[name].stop()
    numbers: list[str] = []
    until_then = time.monotonic() + _STOPPED_SECONDS
    while not numbers or time.monotonic() < until_then:
        numbers += break_provisioning(paybus, 3)
        paybus.backend(mode="well")
        until_status(paybus, paybus.subscribe(), "provisioned")
    waiting = {"provisioning.organizations.dead": len(numbers)}
    assert paybus.dead_letters() == waiting, "they wait in the broker"
    for name in PROCESSES:
        paybus.start(name)
    until_open(paybus, len(numbers))
    counts = until_done(paybus, replay(paybus), seconds=600)
    assert counts == {"succeeded": len(numbers)}
    for number in numbers:
        until_status(paybus, number, "provisioned")


def test_the_overview_is_of_the_broker_s_and_the_services_own_figures(paybus: Paybus) -> None:
    def overview() -> dict[str, Any]:
        answer = paybus.api("GET", "operations", "/health/detailed")
        found: dict[str, Any] = answer.json()
        return found

    paybus.subscribe()
    found = overview()
    states = {name: each["state"] for name, each in found["services"].items()}
    assert (states["subscription"], found["gateway"], found["broker"]) == ("ok", "ok", "ok")
    assert "does not answer" in states["payouts"], "it is not running here"
    assert found["services"]["subscription"]["figures"]["circuits"] == []
    heard = {each["endpoint"]: each for each in found["providers"]}
    assert heard["stripe/default"]["accepted"] >= 1
    assert found["failed"]["last_hour"] >= 1
    consumers = {each["name"]: each["consumers"] for each in found["queues"]}
    assert (consumers["subscription.billing"], consumers["payouts.default"]) == (1, 0)
    paybus.publish("payouts.default", "waits")
    until(
        lambda: {each["name"]: each["messages"] for each in overview()["queues"]}[
            "payouts.default"
        ],
        what="it is seen to wait",
    )
    paybus.messages("payouts.default", remove=True)
    paybus.sql(
        "provisioning",
        "INSERT INTO outbox (exchange, routing_key, body, created_at) "
        "VALUES ('nobody', 'x', '{}', now() - interval '1 hour')",
    )
    waiting = overview()["services"]["provisioning"]["figures"]
    assert waiting["outbox"] == 1
    assert waiting["outbox_since"] < heard["stripe/default"]["last_accepted"], "it is older"
    paybus.sql("provisioning", "DELETE FROM outbox")
    jobs = {(each["service"], each["name"]): each for each in get(paybus, "jobs")}
    assert jobs["subscription", "renewals"]["problem"] is None
    assert "does not answer" in jobs["payouts", None]["problem"]
    run = paybus.api("POST", "operations", "/v1/jobs/subscription/renewals/run")
    assert run.status_code == 200, run.text
    assert paybus.api("POST", "operations", "/v1/jobs/nobody/x/run").status_code == 404
    other = paybus.api("GET", "operations", "/health/detailed", tenant="other")
    assert other.status_code == 403


def test_nothing_that_dies_stops_the_others(paybus: Paybus) -> None:
    dead = "subscription.billing.dead"
    paybus.publish(dead, "a", headers={"x-death": [{"reason": "re\0jected"}]})
    paybus.publish(dead, "b", headers={"x-paybus-refill": "\0"})
    paybus.publish(dead, "[" * 100_000)
    event = {"id": "1", "source": "x", "type": "t", "time": "0001-01-01T00:00:00+10:00"}
    for _ in range(2):
        paybus.publish(dead, json.dumps(event), headers={dead_letter.ERROR: "a-" * 1000})
    (last,) = buried(paybus, 1)
    until_open(paybus, 5)
    assert last in {each["subject"] for each in letters(paybus)}
    post(paybus, "dead-letters/discard", {"filter": {}, "reason": "a test"})


def test_what_can_t_be_indexed_is_left_out_of_the_journal(paybus: Paybus) -> None:
    event = failed_payment("p", event_id=uuid4().hex, subject="s" * 200)
    strange = json.loads(event) | {"causationid": "a\0b", "id": uuid4().hex}
    for body in ("[" * 100_000, json.dumps(strange), event):
        paybus.publish_to("payments", "payment.failed", body)
    until(
        lambda: get(paybus, "journal", subject="s" * 200)["items"],
        what="what came after it is there",
    )
    until_open(paybus, 1)
    post(paybus, "dead-letters/discard", {"filter": {}, "reason": "a test"})


def test_the_journal_says_what_an_event_reports(paybus: Paybus) -> None:
    """A dispute that was won looks unlike one that is open, and why a call had no effect is shown:
    in the API, by the command and on the console."""
    subject = f"stripe/dp_{uuid4().hex}"
    whole = json.loads(failed_payment("p", event_id=uuid4().hex, subject=subject))
    money = {"provider": "stripe", "amount": 1500, "currency": "EUR"}
    dispute = money | {"dispute_id": "dp", "references": [], "reason": "fraudulent"}
    connected = {"provider": "stripe", "provider_type": "account.application.deauthorized",
                 "body": {"account": "acct_1", "email": "payer@example.com"}}  # fmt: skip
    for type_, data in (
        ("payment.disputed", dispute | {"status": "open"}),
        ("payment.disputed", dispute | {"status": "won"}),
        ("provider.stripe.account.application.deauthorized", connected),
        ("provider.stripe.payout.paid", connected | {"not_served": "it is in test mode"}),
    ):
        event = whole | {"id": uuid4().hex, "type": type_, "data": data}
        paybus.publish_to("payments", type_, json.dumps(event))

    def summaries() -> list[str]:
        found = get(paybus, "journal", subject=subject)["items"]
        return [each["summary"] for each in reversed(found)]

    expected = ["open, 1500 EUR", "won, 1500 EUR", "account acct_1",
                "account acct_1, it is in test mode"]  # fmt: skip
    until(lambda: summaries() == expected, what="it says what happened")
    _, printed, _ = paybus_command(paybus, "journal", "search", "--subject", subject)
    _, traced, _ = paybus_command(paybus, "journal", "trace", whole["correlationid"])
    browser = Browser(paybus, role="viewer")
    pages = [browser.see(f"/journal?subject={subject}")]
    pages.append(browser.see(f"/journal/{whole['correlationid']}"))
    for text in (printed, traced, *pages):
        for part in ("open, 1500", "won, 1500", "acct_1"):
            assert part in text
        assert "payer@example.com" not in text


def test_a_slow_replay_holds_up_no_other(paybus: Paybus) -> None:
    buried(paybus, 5)
    until_open(paybus, 5)
    slow, quick = letters(paybus)[:3], letters(paybus)[3:]
    first = replay(paybus, ids=[each["id"] for each in slow], rate=1, concurrency=1)
    second = replay(paybus, ids=[each["id"] for each in quick])
    assert until_done(paybus, second) == {"succeeded": 2}
    assert until_done(paybus, first) == {"succeeded": 3}


def test_a_letter_whose_outcome_was_lost_can_be_restored(paybus: Paybus) -> None:
    paybus.system.processes["subscription-worker"].stop()
    buried(paybus, 1)
    until_open(paybus, 1)
    (one,) = letters(paybus)
    id_ = replay(paybus)
    until(lambda: len(paybus.messages("subscription.billing")) == 1, what="it is sent")
    paybus.messages("subscription.billing", remove=True)  # an operator empties the queue
    assert post(paybus, f"replays/{id_}/cancel", {"reason": "it is lost"})["state"] == "cancelled"
    restored = {"ids": [one["id"]], "reason": "once more"}
    assert post(paybus, "dead-letters/restore", restored) == {"count": 1}
    paybus.start("subscription-worker")
    assert until_done(paybus, replay(paybus)) == {"succeeded": 1}


def test_old_payout_commands_are_not_sent_again(paybus: Paybus) -> None:
    old = datetime.now(UTC) - timedelta(days=3)
    event = new_event(
        id=uuid4().hex,
        type="payout.process.default",
        source="/payouts",
        subject="po_1",
        tenant="default",
        time=old,
        data=ProcessPayout(payout_id="po_1", provider="stripe", account="default"),
    )
    headers = {dead_letter.ERROR: "Timeout: no answer", dead_letter.DEAD_SINCE: _DIED}
    paybus.publish("payouts.default.dead", event.encode().decode(), headers=headers)
    until_open(paybus, 1)
    refused = paybus.api("POST", "operations", "/v1/replays", json={"filter": {}, "reason": "?"})
    assert (refused.status_code, "payouts says" in refused.text) == (409, True), refused.text
    forecast = post(paybus, "replays", {"filter": {}, "reason": "?", "dry_run": True})
    assert (forecast["send"], list(forecast["skip"].values())) == ({}, [1])
    window = {"queue": "payouts.default", "since": old.isoformat(), "until": "2030-01-01T00:00:00Z"}
    wanted = {"window": window, "reason": "?"}
    answer = paybus.api("POST", "operations", "/v1/journal/replays", json=wanted)
    assert (answer.status_code, "payout commands" in answer.text) == (400, True)
    assert paybus.messages("payouts.default") == []
    post(paybus, "dead-letters/discard", {"filter": {}, "reason": "a test"})


def test_a_service_that_had_a_bug_gets_its_events_again_as_new_ones(paybus: Paybus) -> None:
    since, id_ = datetime.now(UTC), uuid4().hex
    event = failed_payment(id_)
    paybus.publish_to("payments", "payment.failed", event)
    query = "FROM payments WHERE provider_payment_id = %s"
    kept = ("subscription", f"SELECT amount {query}", id_)
    until(lambda: paybus.sql(*kept) == [(1,)], what="it is taken in")
    paybus.sql("subscription", f"DELETE {query}", id_)  # as a bug might
    window = {
        "queue": "subscription.billing",
        "since": since.isoformat(),
        "until": "2030-01-01T00:00:00Z",
        "types": ["payment.failed"],
    }
    wanted = {"window": window, "reason": "it was mended"}
    ordered = post(paybus, "journal/replays", wanted)
    assert until_done(paybus, ordered["id"]) == {"already_done": 1}
    assert paybus.sql(*kept) == []
    wanted = {"window": window | {"new_ids": True}, "reason": "it was mended"}
    ordered = post(paybus, "journal/replays", wanted, role="admin")
    assert until_done(paybus, ordered["id"]) == {"succeeded": 1}
    assert paybus.sql(*kept) == [(1,)]


def test_a_window_leaves_out_what_is_a_dead_letter(paybus: Paybus) -> None:
    """Dead letters are decided separately, and the discarded one has been decided."""
    since = datetime.now(UTC)
    paybus.backend(mode="refuse")
    numbers = [paybus.subscribe() for _ in range(2)]
    for number in numbers:
        until_status(paybus, number, "failed")
    until_open(paybus, 2)
    first, second = letters(paybus)
    post(paybus, "dead-letters/discard", {"ids": [first["id"]], "reason": "they asked us not to"})
    paybus.backend(mode="well")
    well = paybus.subscribe()
    until_status(paybus, well, "provisioned")
    window = {
        "queue": "provisioning.organizations",
        "since": since.isoformat(),
        "until": "2030-01-01T00:00:00Z",
    }
    ordered = post(paybus, "journal/replays", {"window": window, "reason": "to see"})
    assert until_done(paybus, ordered["id"]) == {"skipped": 2, "succeeded": 1}
    items = get(paybus, f"replays/{ordered['id']}/items", state="skipped")["items"]
    assert {each["dead_letter_id"] for each in items} == {first["id"], second["id"]}
    assert until_done(paybus, replay(paybus)) == {"succeeded": 1}


def test_what_was_earned_since_a_backup_of_yesterday_is_heard_again(paybus: Paybus) -> None:
    """docs/runbooks/payouts-restore.md: only payout commands are not replayed after so long."""
    now = datetime.now(UTC)
    window = {"since": (now - timedelta(hours=30)).isoformat(), "until": now.isoformat()}
    for queue, status in (("payouts.requests", 202), ("payouts.low", 400)):
        wanted = {"window": window | {"queue": queue}, "reason": "restored"}
        answer = paybus.api("POST", "operations", "/v1/journal/replays", json=wanted)
        assert answer.status_code == status, answer.text


def test_an_edited_message_is_another_event_in_its_place(make_paybus: MakePaybus) -> None:
    names = [*PROCESSES, "subscription-worker"]
    with make_paybus(names, EDIT_AND_REPLAY_ENABLED="true", **QUICK) as paybus:
        (id_,) = buried(paybus, 1)
        until_open(paybus, 1)
        (one,) = letters(paybus)
        path = f"dead-letters/{one['id']}/edit"
        bad = {"changes": {"amount": "?"}, "reason": "?"}
        refused = paybus.api("POST", "operations", f"/v1/{path}", json=bad, role="admin")
        assert (refused.status_code, "payment.failed" in refused.text) == (400, True)
        command = ("dead-letters", "edit", one["id"], "--reason", "it was 7")
        status, out, err = paybus_command(
            paybus, *command, "--changes", '{"amount": 7}', role="admin"
        )
        assert (status, "1 succeeded" in out) == (0, True), out + err
        query = "SELECT amount FROM payments WHERE provider_payment_id = %s"
        assert paybus.sql("subscription", query, id_) == [(7,)]
        assert [each["id"] for each in letters(paybus, state="replaced")] == [one["id"]]
        back = {"ids": [one["id"]], "reason": "?"}
        both = paybus.api("POST", "operations", "/v1/dead-letters/restore", json=back)
        assert both.status_code == 409, "its edited copy was sent"


def test_what_moves_money_is_not_edited(make_paybus: MakePaybus) -> None:
    """An admin alone could otherwise decide on an amount that needs two people."""
    with make_paybus(PROCESSES, EDIT_AND_REPLAY_ENABLED="true", **QUICK) as paybus:
        event = earned({"reference": "seller", "currency": "USD"}, 100)
        paybus.publish("payouts.requests.dead", event.encode().decode())
        until_open(paybus, 1)
        (one,) = letters(paybus)
        edit = f"/v1/dead-letters/{one['id']}/edit"
        more = {"changes": {"amount": 500_000}, "reason": "?"}
        refused = paybus.api("POST", "operations", edit, json=more, role="admin")
        assert (refused.status_code, "requires two people" in refused.text) == (403, True)


def paybus_command(paybus: Paybus, *arguments: str, role: str = "operator") -> tuple[int, str, str]:
    env = {
        **os.environ,
        "PAYBUS_URL": paybus.layout.url("operations-api"),
        "PAYBUS_TOKEN": paybus.token(role),
    }
    ended = warm.run("operations.cli", arguments, env)
    return ended.returncode, ended.stdout, ended.stderr


def test_the_command_line_does_what_the_api_does(paybus: Paybus) -> None:
    (id_,) = buried(paybus, 1)
    until_open(paybus, 1)
    status, out, _ = paybus_command(paybus, "dead-letters", "groups", "--json")
    (group,) = json.loads(out)
    assert (status, group["count"], group["error_class"]) == (0, 1, "DiskFull")
    (one,) = letters(paybus)
    _, out, _ = paybus_command(paybus, "dead-letters", "show", one["id"], "--json")
    assert json.loads(out)["event_id"] == id_
    _, out, _ = paybus_command(paybus, "dead-letters", "show", one["id"])
    assert {f"event_id: {id_}", "error: DiskFull: no space is left"} <= {*out.splitlines()}
    _, out, _ = paybus_command(paybus, "dead-letters", "list", "--queue", "subscription.billing")
    assert one["id"] in out
    refused = paybus_command(
        paybus, "dead-letters", "replay", one["id"], "--reason", "?", role="viewer"
    )
    assert (refused[0], "operator" in refused[2]) == (1, True)
    for action in ("discard", "replay"):
        everything = paybus_command(paybus, "dead-letters", action, "--reason", "?")
        assert (everything[0], "name the dead letters" in everything[2]) == (2, True)
    wrong = paybus_command(paybus, "dead-letters", "list", "--state", "nonsense")
    assert wrong[0] == 2, "wrongly called"
    none = ("dead-letters", "replay", "--where", "tenant=nobody", "--reason", "?")
    assert paybus_command(paybus, *none)[0] == 1
    status, out, err = paybus_command(
        paybus, "dead-letters", "replay", one["id"], "--reason", "there is room again"
    )
    assert (status, "1 succeeded" in out) == (0, True), out + err
    trace = paybus_command(paybus, "journal", "trace", id_)
    assert (trace[0], f"dead letter {one['id']}" in trace[1]) == (0, True)
    status, out, _ = paybus_command(paybus, "status")
    assert (status, "payouts: does not answer" in out) == (1, True)
    _, out, _ = paybus_command(paybus, "token")
    assert json.loads(out)["roles"] == ["operator"]


def test_a_retry_by_hand_belongs_to_its_trace_and_closes_the_dead_letter(paybus: Paybus) -> None:
    (number,) = break_provisioning(paybus, 1)
    until_open(paybus, 1, queue="provisioning.organizations")
    (letter,) = letters(paybus, queue="provisioning.organizations")
    integration = until_status(paybus, number, "failed")
    paybus.backend(mode="well")
    answer = paybus.api("POST", "provisioning", f"/v1/integrations/{integration['id']}/retry")
    assert answer.status_code == 202
    until_status(paybus, number, "provisioned")
    closed = until(
        lambda: letters(paybus, state="succeeded", subject=integration["id"]), what="it is closed"
    )
    assert [each["id"] for each in closed] == [letter["id"]]
    detail = get(paybus, f"dead-letters/{letter['id']}")
    assert detail["resolved_by"] == "paybus"
    assert "organization.provisioned" in detail["resolution_reason"]

    def types() -> list[str]:
        steps = get(paybus, f"journal/trace/{letter['correlation_id']}")["steps"]
        return [each["entry"]["type"] for each in steps]

    until(lambda: types()[-1] == "organization.provisioned", what="the trace is whole")
    assert types()[0] == "provider_subscription.created"
    assert types().count("organization.reconcile") == 2, "the first request, and the retry"


def test_a_failure_after_the_success_stays_open(paybus: Paybus) -> None:
    """The success of an earlier command says nothing about it."""
    number = paybus.subscribe()
    integration = until_status(paybus, number, "provisioned")
    (event,) = [
        each
        for each in paybus.journal()
        if each["type"] == "organization.provisioned" and each["subject"] == integration["id"]
    ]
    failed = json.loads(failed_payment("later", subject=integration["id"]))
    failed |= {"type": "organization.reconcile", "data": {"integration_id": integration["id"]}}
    headers = {dead_letter.DEAD_SINCE: "2030-01-01T00:00:00+00:00"}
    paybus.publish("provisioning.organizations.dead", json.dumps(failed), headers=headers)
    until_open(paybus, 1, queue="provisioning.organizations")
    paybus.publish("operations.completions", json.dumps(event | {"id": "again"}))
    until(
        lambda: paybus.sql("operations", "SELECT 1 FROM inbox WHERE id = 'again'"),
        what="the success was read",
    )
    (letter,) = letters(paybus, queue="provisioning.organizations")
    post(paybus, "dead-letters/discard", {"ids": [letter["id"]], "reason": "a test"})

"""Payouts over real sockets: each is paid once, whatever the provider responds."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from common.clients.accounts_file import gateway_source
from common.contracts.payouts import TransferReported
from common.messaging.events import new_event
from conftest import MakePaybus
from support.paybus import Paybus
from support.payouts import (
    OPTIONS,
    PROCESSES,
    PROVIDERS,
    QUICK,
    act,
    add,
    balances,
    behave,
    deliver,
    details,
    discrepancies,
    fates,
    look_now,
    order,
    paid,
    post,
    read,
    request_for,
    sandbox,
    transfers,
    until_state,
    well,
)
from support.waiting import until


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(PROCESSES, payout_options=OPTIONS, **QUICK) as paybus:
        paybus.tap("payouts", "payout.*")
        yield paybus


@pytest.fixture(autouse=True)
def everything_well(paybus: Paybus) -> None:
    well(paybus)


def told(paybus: Paybus, id_: str) -> list[str]:
    return [each["type"] for each in paybus.tapped() if each["subject"] == id_]


def until_told_last(paybus: Paybus, id_: str, *types: str) -> None:
    """Wait for the last events of a payout. Events are published after the row is written, and
    `payout.submitted` is omitted when the outcome comes first."""
    until(lambda: told(paybus, id_)[-len(types) :] == list(types), what=f"{types} are told")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_payout_is_paid_and_the_ledger_says_so(paybus: Paybus, provider: str) -> None:
    seller = add(paybus, provider)
    payout = order(paybus, seller, 5000, fee=100)
    done = until_state(paybus, payout, "paid")
    (transfer,) = transfers(paybus, payout)
    assert (transfer["amount"], transfer["status"]) == (5000, "paid")
    assert done["transfer_id"] == transfer["id"]
    assert [each["outcome"] for each in done["attempts"]] == ["accepted"]
    assert balances(paybus, seller) == {
        "platform": -5100,
        "available": 0,
        "pending": 0,
        "paid": 5000,
        "fees": 100,
    }
    until_told_last(paybus, payout["id"], "payout.paid")


def test_stripe_pays_from_a_connected_account_to_its_bank(paybus: Paybus) -> None:
    seller = add(paybus, "stripe", details=details("stripe", via="payout"))
    payout = order(paybus, seller)
    until_state(paybus, payout, "paid")
    assert [each["kind"] for each in transfers(paybus, payout)] == ["payout"]
    until_told_last(paybus, payout["id"], "payout.paid")


def test_stripe_pays_out_forints_in_whole_hundreds_and_keeps_the_rest(paybus: Paybus) -> None:
    threshold = {"kind": "threshold", "minimum": 1000}
    account = details("stripe", via="payout")
    ama = add(paybus, "stripe", currency="HUF", details=account, schedule=threshold)
    refused = post(paybus, "payouts", request_for(ama, 1250))
    assert (refused.status_code, "multiples of 100" in refused.text) == (400, True)
    credit = {"amount": 123_450, "currency": "HUF", "reason": "sold"}
    assert post(paybus, f"recipients/{ama['id']}/credits", credit).status_code == 201
    paybus.api("POST", "payouts", "/v1/schedules/pay-balances/run")
    until(lambda: balances(paybus, ama).get("paid") == 123_400, what="whole hundreds are paid")
    assert balances(paybus, ama)["available"] == 50
    krona = add(paybus, "stripe", currency="ISK")
    done = until_state(paybus, order(paybus, krona, 500), "paid")
    assert done["amount"] == 500
    assert [each["amount"] for each in transfers(paybus, done)] == [50_000]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("how", ["lost", "error_after", "error"])
def test_an_unknown_outcome_is_looked_up_before_anything_is_sent_again(
    paybus: Paybus, provider: str, how: str
) -> None:
    deliver(paybus, drop=1)
    behave(paybus, **{how: 1})
    payout = order(paybus, add(paybus, provider))
    until_state(paybus, payout, "unknown")
    well(paybus)
    done = until_state(paybus, payout, "paid")
    assert len(transfers(paybus, payout)) == 1
    # An executed request is found by a status check; another is sent again, with a new key after a
    # response.
    keys = {each["idempotency_key"] for each in done["attempts"]}
    assert len(keys) == len(done["attempts"])
    assert (len(keys) == 1) == (how != "error")
    audit = [(each["action"], each["after"]) for each in reversed(done["audit"])]
    assert audit[:3] == [("create", "approved"), ("send", "submitting"), ("lose", "unknown")]


def test_the_age_of_an_unknown_outcome_is_exported(paybus: Paybus) -> None:
    """Measured since the payout was sent, although its row changes at each status check."""
    deliver(paybus, drop=1)
    behave(paybus, error=1)
    payout = order(paybus, add(paybus, "stripe"))
    until_state(paybus, payout, "unknown")
    unanswered = ("payouts-worker", "paybus_payouts_unanswered_seconds")
    until(lambda: paybus.metric(*unanswered) > 10, what="an alert can tell of it")
    well(paybus)
    until_state(paybus, payout, "paid")
    until(lambda: paybus.metric(*unanswered) == 0, what="it is known")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_who_is_asked_too_often_is_asked_later(paybus: Paybus, provider: str) -> None:
    behave(paybus, rate_limited=1)
    payout = order(paybus, add(paybus, provider))
    until(lambda: read(paybus, payout["id"])["attempts"], what="it was tried")
    until_state(paybus, payout, "approved")
    behave(paybus)
    until_state(paybus, payout, "paid")
    assert len(transfers(paybus, payout)) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_webhooks_that_are_late_and_doubled_change_nothing(paybus: Paybus, provider: str) -> None:
    deliver(paybus, duplicate=1, delay_seconds=0.3)
    seller = add(paybus, provider)
    payouts = [order(paybus, seller, 1000) for _ in range(5)]
    for payout in payouts:
        until_state(paybus, payout, "paid")
        assert paid(paybus, payout) == 1000
    assert balances(paybus, seller)["paid"] == 5000


@pytest.mark.parametrize("provider", ["dwolla", "fapshi"])
def test_promise_8_webhooks_that_never_come_are_healed_by_asking(
    paybus: Paybus, provider: str
) -> None:
    deliver(paybus, drop=1)
    payout = order(paybus, add(paybus, provider))
    until_state(paybus, payout, "submitted")
    until(lambda: paid(paybus, payout), what="the provider has paid it")
    look_now(paybus, payout)
    until_state(paybus, payout, "paid")


def test_a_status_check_without_an_answer_does_not_postpone_the_next_ones(paybus: Paybus) -> None:
    """Only the time between answers doubles: it says how long the provider takes."""
    deliver(paybus, drop=1)
    payout = order(paybus, add(paybus, "fapshi"))
    until_state(paybus, payout, "submitted")
    behave(paybus, error=1)

    def calls() -> int:
        counts: dict[str, int] = sandbox(paybus, "GET", "/_payouts")["calls"]
        return counts.get("fapshi look-up error", 0)

    def queried(before: int) -> None:
        until(lambda: calls() > before, what="the provider is queried")

    def next_check() -> float:
        """Return the seconds until then; while a worker queries the provider, they are few."""
        query = "SELECT extract(epoch FROM next_action_at - now()) FROM payouts WHERE id = %s"
        return float(paybus.sql("payouts", query, payout["id"])[0][0])

    for _ in range(3):
        before = calls()
        look_now(paybus, payout)
        queried(before)
        until(lambda: next_check() > 60, what="the worker has noted the answer")
        assert next_check() <= float(QUICK["PAYOUT_STATUS_POLL_DELAY_SECONDS"])


@pytest.mark.parametrize("provider", ["stripe", "dwolla"])
def test_money_that_comes_back_is_owed_again(paybus: Paybus, provider: str) -> None:
    fates(paybus, come_back=1, come_back_seconds=0.3)
    seller = add(paybus, provider)
    payout = order(paybus, seller, 5000, fee=100)
    until_state(paybus, payout, "returned")
    until_told_last(paybus, payout["id"], "payout.paid", "payout.returned")
    assert balances(paybus, seller)["available"] == 5000  # the fee was charged
    fates(paybus)
    assert act(paybus, "retry", payout["id"]).status_code == 200
    until_state(paybus, payout, "paid")
    assert paid(paybus, payout) == 5000
    assert balances(paybus, seller) == {
        "platform": -5100,
        "available": 0,
        "pending": 0,
        "paid": 5000,
        "fees": 100,
    }


@pytest.mark.parametrize(
    ("said", "first"), [(("succeeded", "failed"), "paid"), (("failed", "succeeded"), "failed")]
)
def test_of_what_came_back_the_fee_is_charged_whatever_was_told_first(
    paybus: Paybus, said: tuple[str, str], first: str
) -> None:
    deliver(paybus, drop=1)
    fates(paybus, settle_seconds=600)
    seller = add(paybus, "dwolla")
    payout = order(paybus, seller, 5000, fee=300)
    until_state(paybus, payout, "submitted")
    (made,) = transfers(paybus, payout)
    sandbox(paybus, "PUT", f"/_payouts/transfers/{made['id']}", status="returned")
    for word, state in zip(
        said, ({"succeeded": "paid"}.get(said[0], "failed"), "returned"), strict=True
    ):
        report(paybus, made["id"], word)
        until_state(paybus, payout, state)
    assert balances(paybus, seller) == {
        "platform": -5300,
        "available": 5000,
        "pending": 0,
        "paid": 0,
        "fees": 300,
    }


def report(paybus: Paybus, transfer: str, word: str) -> None:
    """Publish the gateway's report of a Dwolla transfer: `succeeded` or `failed`."""
    event = new_event(
        id=uuid4().hex,
        type=f"provider_transfer.{word}",
        source=gateway_source("dwolla", "default"),
        subject=f"dwolla/{transfer}",
        tenant="default",
        data=TransferReported(provider="dwolla", transfer_id=transfer, account="x"),
    )
    paybus.publish_to("payouts", event.type, event.encode().decode())


def test_what_failed_is_tried_again_by_the_clock_five_times_at_the_most(paybus: Paybus) -> None:
    fates(paybus, fail=1)
    payout = order(paybus, add(paybus, "dwolla"))
    for number in range(1, 6):
        until(lambda: read(paybus, payout["id"])["failures"] == number, what=f"failure {number}")
        if number < 5:
            assert "payout.failed" not in told(paybus, payout["id"])
            look_now(paybus, payout)
            run = paybus.api("POST", "payouts", "/v1/schedules/retry-failed/run")
            assert run.status_code == 202
    until(lambda: "payout.failed" in told(paybus, payout["id"]), what="it is told")
    done = read(paybus, payout["id"])
    assert (done["state"], done["next_action_at"]) == ("failed", None)
    assert len(transfers(paybus, payout)) == 5
    fates(paybus)
    assert act(paybus, "retry", payout["id"]).json()["state"] == "approved"
    until_state(paybus, payout, "paid")
    assert paid(paybus, payout) == payout["amount"]


@pytest.mark.parametrize("provider", ["stripe", "dwolla"])
@pytest.mark.parametrize("heard", [True, False], ids=["heard", "unheard"])
def test_a_payout_of_which_one_of_two_transfers_comes_back_is_paid_by_the_other(
    paybus: Paybus, provider: str, heard: bool
) -> None:
    """Otherwise the recipient's schedule would pay it again, beside the transfer that stands. The
    second transfer may be unreported: the provider is queried before a return is applied."""
    seller = add(paybus, provider)
    payout = order(paybus, seller, 5000)
    own = until_state(paybus, payout, "paid")["transfer_id"]
    deliver(paybus, drop=0 if heard else 1)
    other = sandbox(paybus, "POST", f"/_payouts/transfers/{own}/again")["id"]
    if heard and provider == "stripe":  # Dwolla's webhooks contain no reference
        until(lambda: "doubled" in discrepancies(paybus, payout), what="both are known")
    deliver(paybus)
    sandbox(paybus, "PUT", f"/_payouts/transfers/{own}", status="returned")
    until(lambda: read(paybus, payout["id"])["transfer_id"] == other, what="the other one stands")
    until_state(paybus, payout, "paid")
    owed = "SELECT count(*) FROM ledger_entries WHERE recipient_id = %s AND target = 'available' "
    owed += "AND source <> 'platform'"
    assert paybus.sql("payouts", owed, seller["id"]) == [(0,)], "owed again, if for a moment"
    sandbox(paybus, "PUT", f"/_payouts/transfers/{other}", status="returned")
    until_state(paybus, payout, "returned")
    assert (paid(paybus, payout), balances(paybus, seller)["available"]) == (0, 5000)


def test_a_payout_that_waits_for_approval_again_is_paid_when_the_provider_says_so(
    paybus: Paybus,
) -> None:
    """The call was slow, and the recipient's details were changed meanwhile."""
    seller = add(paybus, "stripe")
    payout = order(paybus, seller, 150_000)
    behave(paybus, delay_seconds=3)
    act(paybus, "approve", payout["id"], role="approver", subject="boss").raise_for_status()
    until_state(paybus, payout, "submitting")
    new = {"details": details("stripe"), "reason": "new"}
    url = f"/v1/recipients/{seller['id']}"
    paybus.api("PATCH", "payouts", url, json=new, role="approver").raise_for_status()
    until_state(paybus, payout, "paid")
    assert act(paybus, "cancel", payout["id"]).status_code == 409
    assert paid(paybus, payout) == payout["amount"]


def test_a_refusal_is_a_failure_that_says_why(paybus: Paybus) -> None:
    gone = add(paybus, "stripe", details={"account": "acct_1_gone"})
    payout = order(paybus, gone)
    failed = until_state(paybus, payout, "failed")
    assert "does not exist" in failed["error"]
    assert transfers(paybus, payout) == []
    change = {"details": details("stripe"), "reason": "a new account"}
    url = f"/v1/recipients/{gone['id']}"
    assert paybus.api("PATCH", "payouts", url, role="approver", json=change).status_code == 200
    act(paybus, "retry", payout["id"])
    until_state(paybus, payout, "paid")


def test_after_a_day_the_same_key_would_pay_twice_and_is_not_used(paybus: Paybus) -> None:
    deliver(paybus, drop=1)
    behave(paybus, lost=1)
    payout = order(paybus, add(paybus, "stripe"))
    until_state(paybus, payout, "unknown")
    act(paybus, "hold", payout["id"])
    sandbox(paybus, "POST", "/_payouts/clock", seconds=25 * 3600)
    behave(paybus)
    until_state(paybus, payout, "paid")
    assert len(transfers(paybus, payout)) == 1


def test_a_killed_worker_s_payouts_are_asked_about_and_paid_once(paybus: Paybus) -> None:
    behave(paybus, delay_seconds=2)
    seller = add(paybus, "stripe")
    payouts = [order(paybus, seller, 1000) for _ in range(20)]
    until(
        lambda: any(read(paybus, each["id"])["state"] == "submitting" for each in payouts),
        what="some are being sent",
    )
    worker = paybus.system.processes["payouts-worker"]
    worker.kill(signal.SIGKILL)
    worker.wait()
    behave(paybus)
    paybus.start("payouts-worker")
    for payout in payouts:
        until_state(paybus, payout, "paid")
        assert len(transfers(paybus, payout)) == 1
    assert balances(paybus, seller)["paid"] == 20_000


def test_a_provider_that_does_not_answer_is_left_alone(make_paybus: MakePaybus) -> None:
    """The circuit opens: nothing is sent until it is half-open, and nothing is lost."""
    with make_paybus(PROCESSES, payout_options=OPTIONS, **QUICK) as paybus:
        well(paybus)
        behave(paybus, error=1)
        seller = add(paybus, "stripe")
        first = [order(paybus, seller, 1000) for _ in range(12)]

        def circuits() -> list[str]:
            answer = paybus.api("GET", "payouts", "/v1/control")
            return [each["state"] for each in answer.json()["circuits"]]

        until(lambda: "opened" in circuits(), what="the circuit is open")
        open_ = {"system": "stripe/payouts"}
        assert (
            paybus.metric("payouts-worker", "paybus_circuit_breaker_state", state="open", **open_)
            == 1
        )
        after = order(paybus, seller, 1000)
        until(lambda: read(paybus, after["id"])["error"], what="it is put off")
        assert read(paybus, after["id"])["attempts"] == []
        behave(paybus)
        for payout in [*first, after]:
            until(lambda: read(paybus, payout["id"])["state"] == "paid", what="it is paid")
            assert len(transfers(paybus, payout)) == 1
        assert circuits() == []


def test_a_dead_lettered_command_that_is_replayed_moves_nothing(paybus: Paybus) -> None:
    payout = order(paybus, add(paybus, "stripe"))
    until_state(paybus, payout, "paid")
    commands = [
        each
        for each in paybus.journal()
        if each["type"].startswith("payout.process.") and each["subject"] == payout["id"]
    ]
    for _ in range(3):
        paybus.publish("payouts.direct", json.dumps(commands[0]))
    handled = order(paybus, add(paybus, "stripe"))
    until_state(paybus, handled, "paid")
    assert len(transfers(paybus, payout)) == 1
    assert paybus.dead_letters() == {}


def test_after_a_restore_what_was_forgotten_is_asked_about_first(make_paybus: MakePaybus) -> None:
    """The database is from before the payout was sent, and the provider has forgotten the keys."""
    with make_paybus(PROCESSES, payout_options=OPTIONS, **QUICK) as paybus:
        well(paybus)
        seller = add(paybus, "fapshi")
        payout, body = order(paybus, seller, key="again"), request_for(seller)
        until_state(paybus, payout, "paid")
        paybus.system.processes.pop("payouts-worker").stop()
        paybus.sql("payouts", "DELETE FROM attempts")
        paybus.sql("payouts", "DELETE FROM transfers")
        paybus.sql("payouts", "DELETE FROM payouts")
        paybus.sql("payouts", "DELETE FROM balances")
        sandbox(paybus, "POST", "/_payouts/clock", seconds=25 * 3600)
        url = "/v1/control/require-status-check"
        why = {"reason": "restored"}
        assert paybus.api("POST", "payouts", url, json=why, role="approver").status_code == 403
        assert paybus.api("POST", "payouts", url, json=why, role="admin").status_code == 200
        refused = post(paybus, "payouts", body, key="again")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "60")
        paybus.start("payouts-worker")
        again: list[httpx.Response] = []

        def taken() -> bool:
            again.append(post(paybus, "payouts", body, key="again"))
            return again[-1].is_success

        until(taken, what="the account is reconciled")
        assert again[-1].json()["id"] == payout["id"]
        done = until_state(paybus, payout, "paid")
        assert [each["outcome"] for each in done["attempts"]] == ["found"]
        assert (done["amount"], done["created_by"]) == (payout["amount"], payout["created_by"])
        assert len(transfers(paybus, payout)) == 1
        assert balances(paybus, seller)["paid"] == payout["amount"]
        other = post(paybus, "payouts", body | {"amount": 1}, key="again")
        assert other.status_code == 409
        fresh = order(paybus, seller)
        until_state(paybus, fresh, "paid")
        assert len(transfers(paybus, fresh)) == 1

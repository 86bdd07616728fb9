"""The ledger: tampering is detected, and it is reconciled with the providers' books."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import support.payouts
from conftest import MakePaybus
from devstack.endpoints import ENCRYPTION_KEY
from payouts.ledger import discrepancies
from payouts.ledger.verification import verify
from payouts.models import Discrepancy
from payouts.providers.registry import ProviderAccount
from support.keys import new_key, rotate
from support.paybus import Paybus
from support.payouts import (
    OPTIONS,
    PROCESSES,
    QUICK,
    act,
    add,
    balances,
    cli,
    deliver,
    details,
    order,
    read,
    sandbox,
    sent_earlier,
    transfers,
    until_state,
    well,
)
from support.waiting import until

TODAY = datetime.now(UTC).date()


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(PROCESSES, payout_options=OPTIONS, **QUICK) as paybus:
        yield paybus


@pytest.fixture(autouse=True)
def everything_well(paybus: Paybus) -> None:
    well(paybus)


@pytest.fixture(scope="module")
def some_history(paybus: Paybus) -> dict[str, Any]:
    well(paybus)
    seller = add(paybus, "stripe")
    for _ in range(3):
        until_state(paybus, order(paybus, seller, 1000, fee=10), "paid")
    return seller


def test_whole_books_are_found_whole(paybus: Paybus, some_history: dict[str, Any]) -> None:
    done = cli(paybus, "verify-ledger")
    assert (done.returncode, done.stderr) == (0, "")
    assert "intact: nothing was changed, removed or added" in done.stdout
    head = done.stdout.split("head ")[1].split()[0]
    assert cli(paybus, "verify-ledger", "--expect", head).returncode == 0
    report = paybus.api("GET", "payouts", "/v1/reports/daily").json()["audit_head"]
    assert f"{report['position']}:{report['hash']}" == head
    wrong = cli(paybus, "verify-ledger", "--expect", head[:-4] + "0000")
    assert wrong.returncode == 1
    assert "not the expected one" in wrong.stderr
    assert cli(paybus, "verify-ledger", "--expect", "nonsense").returncode == 2


_TAMPERINGS = {
    "a reason": "UPDATE audit_log SET reason = 'other' WHERE position = 2",
    "an actor": "UPDATE audit_log SET actor = 'nobody' WHERE position = 3",
    "a time": "UPDATE audit_log SET at = at + interval '1 microsecond' WHERE position = 4",
    "a state": "UPDATE audit_log SET after = 'cancelled' WHERE position = 3",
    "an entry's data": "UPDATE audit_log SET data = '{}' WHERE data ? 'ledger' AND position = 2",
    "a hash": "UPDATE audit_log SET hash = repeat('a', 64) WHERE position = 2",
    "an entry taken out": "DELETE FROM audit_log WHERE position = 3",
    "the last entry taken out": "DELETE FROM audit_log "
    "WHERE position = (SELECT max(position) FROM audit_log)",
    "an entry added": "INSERT INTO audit_log SELECT position + 1, at, tenant, actor, role, action, "
    "subject, before, after, reason, data, hash FROM audit_log "
    "WHERE position = (SELECT max(position) FROM audit_log)",
    "an amount": "UPDATE ledger_entries SET amount = amount + 1 "
    "WHERE id = (SELECT min(id) FROM ledger_entries)",
    "an account": "UPDATE ledger_entries SET target = 'fees' "
    "WHERE id = (SELECT min(id) FROM ledger_entries)",
    "whose it is": "UPDATE ledger_entries SET recipient_id = 'me' "
    "WHERE id = (SELECT max(id) FROM ledger_entries)",
    "a ledger entry taken out": "DELETE FROM ledger_entries "
    "WHERE id = (SELECT max(id) FROM ledger_entries)",
    "a ledger entry added": "INSERT INTO ledger_entries (tenant, recipient_id, currency, "
    "source, target, amount, audit_position, at) SELECT tenant, recipient_id, currency, "
    "source, target, amount, 999999, at FROM ledger_entries LIMIT 1",
    "a ledger entry doubled": "INSERT INTO ledger_entries (tenant, recipient_id, payout_id, "
    "currency, source, target, amount, audit_position, at) SELECT tenant, recipient_id, "
    "payout_id, currency, source, target, amount, audit_position, at FROM ledger_entries LIMIT 1",
    "a balance": "UPDATE balances SET available = available + 1, platform = platform - 1",
    "a balance taken out": "DELETE FROM balances",
    "the head": "UPDATE audit_head SET position = position - 1",
}


@pytest.mark.parametrize("what", _TAMPERINGS)
def test_breaking_one_row_is_found(paybus: Paybus, some_history: dict[str, Any], what: str) -> None:
    """Each case works on a copy, so that each starts from an intact ledger."""
    stack = paybus.system._stack
    name = f"tampered_{uuid4().hex[:8]}"
    for process in ("payouts-api", "payouts-worker"):  # a database in use cannot be copied
        if process in paybus.system.processes:
            paybus.system.processes.pop(process).stop()
    paybus.disconnect("payouts")
    database = paybus.layout.databases["payouts"].rpartition("/")[2].partition("?")[0]
    url = stack.database(name, owner="template_payouts", template=database)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for table in ("audit_log", "ledger_entries"):
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        assert connection.execute(_TAMPERINGS[what]).rowcount > 0
    faults = asyncio.run(_faults(url))
    if what in {"an amount", "a reason"}:  # as an operator sees it
        done = cli(paybus, "verify-ledger", DATABASE_URL=url)
        assert (done.returncode, "WRONG: " in done.stderr) == (1, True)
        assert "the books were changed" in done.stderr
    stack.drop_database(name)
    assert faults


async def _faults(url: str) -> list[str]:
    engine = create_async_engine(url)
    async with AsyncSession(engine) as session:
        found = (await verify(session)).faults
    await engine.dispose()
    return found


def test_the_books_can_t_be_changed_by_mistake(
    paybus: Paybus, some_history: dict[str, Any]
) -> None:
    for statement in (
        "UPDATE ledger_entries SET amount = 1",
        "DELETE FROM ledger_entries",
        "TRUNCATE ledger_entries",
        "UPDATE audit_log SET reason = ''",
        "DELETE FROM audit_log",
    ):
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            paybus.sql("payouts", statement)
    with pytest.raises(psycopg.errors.CheckViolation):
        paybus.sql("payouts", "UPDATE balances SET available = available + 1")


@pytest.fixture
def running(paybus: Paybus) -> None:
    """Start the processes again if an earlier test stopped them."""
    for process in ("payouts-api", "payouts-worker"):
        if process not in paybus.system.processes:
            paybus.start(process)


def reconcile(paybus: Paybus) -> list[dict[str, Any]]:
    return support.payouts.reconcile(paybus, TODAY)


@pytest.mark.usefixtures("running")
def test_the_daily_reconciliation_tells_each_difference(paybus: Paybus) -> None:
    for provider in ("stripe", "dwolla", "fapshi"):
        until_state(paybus, order(paybus, add(paybus, provider)), "paid")
    assert reconcile(paybus) == []
    deliver(paybus, drop=1)
    late = order(paybus, add(paybus, "stripe"))
    until_state(paybus, late, "paid")
    (transfer,) = [
        each
        for each in sandbox(paybus, "GET", "/_payouts")["transfers"]
        if each["reference"] == late["id"]
    ]
    sandbox(paybus, "PUT", f"/_payouts/transfers/{transfer['id']}", status="returned")
    sandbox(paybus, "POST", "/_payouts/foreign", provider="stripe", amount=123)
    found = {(each["kind"], each["payout_id"]) for each in reconcile(paybus)}
    assert found == {("state", late["id"]), ("unknown_transfer", None)}
    until_state(paybus, late, "returned")  # the provider was queried about it
    assert [each["kind"] for each in reconcile(paybus)] == [
        "unknown_transfer"
    ]  # reported once, and the other is resolved


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("provider", ["stripe", "dwolla"])
def test_a_second_transfer_on_another_day_is_found(paybus: Paybus, provider: str) -> None:
    """Sent yesterday; the provider duplicates it today without a report."""
    sandbox(paybus, "POST", "/_payouts/clock", seconds=-86400)
    payout = order(paybus, add(paybus, provider))
    until_state(paybus, payout, "paid")
    (first,) = transfers(paybus, payout)
    sent_earlier(paybus, payout, days=1)
    deliver(paybus, drop=1)
    sandbox(paybus, "POST", "/_payouts/clock", seconds=86400)
    sandbox(paybus, "POST", f"/_payouts/transfers/{first['id']}/again")
    for day in (TODAY - timedelta(days=1), TODAY):
        support.payouts.reconcile(paybus, day)
    assert "doubled" in support.payouts.discrepancies(paybus, payout)
    deliver(paybus)


@pytest.mark.usefixtures("running")
def test_what_somebody_writes_into_their_own_account_is_nobody_else_s(paybus: Paybus) -> None:
    """The holder of a connected account puts another recipient and another payout into the metadata
    of their own payouts, which Stripe passes on to us."""
    account = details("stripe", via="payout")
    theirs = order(paybus, add(paybus, "stripe", details=account), 1000)
    until_state(paybus, theirs, "paid")  # so that their account is listed
    mine = add(paybus, "stripe")
    credit = {"amount": 5000, "currency": "USD", "reason": "earned"}
    support.payouts.post(paybus, f"recipients/{mine['id']}/credits", credit).raise_for_status()
    waiting = order(paybus, mine, 150_000)
    url = f"{paybus.layout.url('sandbox-providers')}/stripe/v1/payouts"
    for payout in (waiting["id"], str(uuid4())):
        form = {
            "amount": "5000",
            "currency": "usd",
            "metadata[paybus_payout]": payout,
            "metadata[paybus_recipient]": mine["id"],
        }
        headers = {
            "Authorization": "Bearer sk_test_theirs",
            "Stripe-Account": account["account"],
            "Idempotency-Key": uuid4().hex,
        }
        paybus.http.post(url, data=form, headers=headers).raise_for_status()
    found = support.payouts.reconcile(paybus, TODAY)
    assert [each["kind"] for each in found].count("unknown_transfer") >= 2
    assert read(paybus, waiting["id"])["state"] == "scheduled"
    assert balances(paybus, mine)["available"] == 5000
    assert balances(paybus, mine)["paid"] == 0
    assert act(paybus, "cancel", waiting["id"]).is_success


def test_tenants_that_share_an_account_do_not_see_each_other_s_transfers(
    make_paybus: MakePaybus,
) -> None:
    with make_paybus(payout_options=OPTIONS, **QUICK) as paybus:
        file = paybus.layout.payout_accounts
        mine = file.read_text()
        other = re.sub('name = "(.*)"', r'name = "\1-of-other"', mine)
        file.write_text(mine + other.replace('tenant = "default"', 'tenant = "other"'))
        paybus.start(*PROCESSES)
        well(paybus)
        payout = order(paybus, add(paybus, "stripe"))
        until_state(paybus, payout, "paid")
        url = f"/v1/reports/reconciliation?day={TODAY}"
        asked = paybus.api("POST", "payouts", url, tenant="other").json()
        assert asked["accounts"] == 4
        kinds = "SELECT tenant, kind FROM discrepancies"
        until(
            lambda: paybus.log("payouts-worker").count('"message": "reconciled"') >= 4,
            what="its accounts are reconciled",
        )
        assert paybus.sql("payouts", kinds) == []


def _paid(paybus: Paybus) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return a recipient, their paid payout of 5000, and its transfer's path in the sandbox."""
    seller = add(paybus, "stripe")
    payout = order(paybus, seller, 5000)
    until_state(paybus, payout, "paid")
    (transfer,) = transfers(paybus, payout)
    return seller, payout, f"/_payouts/transfers/{transfer['id']}"


@pytest.mark.usefixtures("running")
def test_what_comes_back_in_parts_is_owed_once(paybus: Paybus) -> None:
    """https://docs.stripe.com/api/transfer_reversals: any number of partial reversals."""
    seller, payout, url = _paid(paybus)
    for part, back in ((2000, 2000), (1000, 3000)):
        sandbox(paybus, "PUT", url, part=part)
        until(lambda back=back: balances(paybus, seller)["available"] == back, what="it is owed")  # type: ignore[misc]
        assert balances(paybus, seller)["paid"] == 5000 - back
        found = read(paybus, payout["id"])
        assert (found["state"], found["amount_returned"]) == ("paid", back)
    assert [each for each in reconcile(paybus) if each["payout_id"] == payout["id"]] == []
    sandbox(paybus, "PUT", url, status="returned")
    assert until_state(paybus, payout, "returned")["amount_returned"] == 0
    assert balances(paybus, seller) == {
        "platform": -5000,
        "available": 5000,
        "pending": 0,
        "paid": 0,
        "fees": 0,
    }


@pytest.mark.usefixtures("running")
def test_a_part_that_came_back_without_a_word_is_found_by_the_comparison(paybus: Paybus) -> None:
    seller, payout, url = _paid(paybus)
    deliver(paybus, drop=1)
    sandbox(paybus, "PUT", url, part=2000)
    (found,) = [each for each in reconcile(paybus) if each["payout_id"] == payout["id"]]
    assert (found["ours"], found["theirs"]) == ("5000 USD", "3000 USD")
    until(lambda: balances(paybus, seller)["available"] == 2000, what="the provider was asked")
    assert [each for each in reconcile(paybus) if each["payout_id"] == payout["id"]] == []


@pytest.mark.usefixtures("running")
def test_an_account_that_takes_its_access_away_hides_only_its_own(paybus: Paybus) -> None:
    connected = f"acct_{uuid4().hex[:16]}"
    seller = add(paybus, "stripe", details=details("stripe", via="payout", account=connected))
    until_state(paybus, order(paybus, seller), "paid")
    sandbox(paybus, "PUT", f"/_payouts/revoked/{connected}")
    failed = until_state(paybus, order(paybus, seller), "failed")
    assert "account_invalid" in failed["error"]
    sandbox(paybus, "POST", "/_payouts/foreign", provider="stripe", amount=321)
    assert [each for each in reconcile(paybus) if each["theirs"].startswith("321 ")]


def test_a_difference_that_went_away_and_comes_back_is_open_again(paybus: Paybus) -> None:
    day = TODAY - timedelta(days=400)
    of = {"tenant": "x", "provider": "stripe", "name": "y"}
    account = cast("ProviderAccount", SimpleNamespace(**of, path="s/y", key=tuple(of.values())))
    found = discrepancies.not_ours(account, day, "tr_1", "5 USD, paid")

    def resolved(*, by: str | None = None) -> list[tuple[Any, ...]]:
        if by is not None:
            change = "UPDATE discrepancies SET resolved_at = now(), resolved_by = %s WHERE id = %s"
            paybus.sql("payouts", change, by, found.id)
        query = "SELECT resolved_at IS NOT NULL, resolved_by FROM discrepancies WHERE id = %s"
        return paybus.sql("payouts", query, found.id)

    async def compare(now_found: list[Discrepancy]) -> None:
        url = paybus.layout.databases["payouts"].replace("postgresql:", "postgresql+psycopg:")
        engine = create_async_engine(url)
        async with AsyncSession(engine) as session, session.begin():
            await discrepancies.keep(session, now_found)
            at = datetime.now(UTC)
            await discrepancies.resolve_others(session, account, day, now_found, checked=[], now=at)
        await engine.dispose()

    asyncio.run(compare([found]))
    assert resolved() == [(False, None)]
    assert resolved(by="ama") == [(True, "ama")]
    asyncio.run(compare([found]))  # both sides are unchanged
    assert resolved() == [(True, "ama")]
    asyncio.run(compare([]))  # both sides agree
    assert resolved() == [(True, None)]
    asyncio.run(compare([found]))
    assert resolved() == [(False, None)]


@pytest.mark.usefixtures("running")
def test_what_square_paid_is_in_the_ledger_and_compared(paybus: Paybus) -> None:
    location = f"L{uuid4().hex[:10].upper()}"
    seller = add(paybus, "square", details={"location_id": location})
    answer = paybus.api(
        "POST",
        "payouts",
        "/v1/payouts",
        json={"recipient": seller["reference"], "amount": 5, "currency": "USD"},
        extra_headers={"Idempotency-Key": "k"},
    )
    assert (answer.status_code, "by itself" in answer.text) == (400, True)
    known = sandbox(paybus, "POST", "/_square/payouts", amount=4200, location_id=location)
    until(lambda: balances(paybus, seller).get("pending") == 4200, what="it is on its way")
    sandbox(paybus, "PUT", f"/_square/payouts/{known['id']}", status="PAID")
    until(lambda: balances(paybus, seller).get("paid") == 4200, what="it is paid")
    before = {each["transfer_id"] for each in reconcile(paybus)}
    assert known["id"] not in before
    deliver(paybus, drop=1)
    sandbox(paybus, "POST", "/_square/payouts", amount=100, location_id=location)
    nowhere = sandbox(paybus, "POST", "/_square/payouts", amount=100, location_id="L0")
    found = {each["transfer_id"] for each in reconcile(paybus)}
    assert balances(paybus, seller)["pending"] == 100  # its webhook was lost
    assert found == before, f"{nowhere['id']} is at no location of ours, so nobody asks for it"


@pytest.mark.usefixtures("running")
def test_what_square_takes_back_from_a_bank_is_a_withdrawal_and_no_deposit(paybus: Paybus) -> None:
    """A payout of a negative amount: https://developer.squareup.com/docs/payouts-api/overview"""
    location = f"L{uuid4().hex[:10].upper()}"
    seller = add(paybus, "square", details={"location_id": location})

    def pay(amount: int) -> None:
        made = sandbox(paybus, "POST", "/_square/payouts", amount=amount, location_id=location)
        sandbox(paybus, "PUT", f"/_square/payouts/{made['id']}", status="PAID")

    pay(4200)
    until(lambda: balances(paybus, seller).get("paid") == 4200, what="it is paid")
    pay(-1200)
    until(lambda: balances(paybus, seller)["paid"] == 3000, what="a part is taken back")
    assert balances(paybus, seller) == {
        "platform": -3000,
        "available": 0,
        "pending": 0,
        "paid": 3000,
        "fees": 0,
    }
    assert [each for each in reconcile(paybus) if each["provider"] == "square"] == []
    assert cli(paybus, "verify-ledger").returncode == 0


@pytest.mark.usefixtures("running")
def test_reports_metrics_and_export_add_up(paybus: Paybus) -> None:
    seller = add(paybus, "dwolla", name="=cmd()")
    payout = order(paybus, seller, 1234)
    until_state(paybus, payout, "paid")
    ran = "SELECT last_outcome FROM schedules WHERE name = 'daily-report'"
    paybus.api("POST", "payouts", "/v1/schedules/daily-report/run")
    until(lambda: paybus.sql("payouts", ran)[0][0] == "succeeded", what="the report is ordered")
    yesterday = TODAY - timedelta(days=1)
    url = f"/v1/reports/daily?day={yesterday}"
    until(lambda: paybus.api("GET", "payouts", url).json()["written_at"], what="it is written")
    today = paybus.api("GET", "payouts", "/v1/reports/daily").json()
    sums = paybus.sql("payouts", "SELECT sum(available), sum(paid) FROM balances")[0]
    assert sum(each["available"] for each in today["balances"]) == sums[0]
    assert sum(each["paid"] for each in today["balances"]) == sums[1]
    metrics = paybus.api("GET", "payouts", "/v1/reports/metrics?time_range=24h").json()
    assert metrics["states"]["paid"] == sum(each["count"] for each in metrics["paid"])
    assert 0 < metrics["seconds_to_paid_p50"] <= metrics["seconds_to_paid_p95"]
    assert 0 < metrics["success_rate"] <= 1
    bad = paybus.api("GET", "payouts", "/v1/reports/metrics?time_range=soon")
    assert bad.status_code == 422
    tomorrow = TODAY + timedelta(days=1)
    url = f"/v1/reports/payouts.csv?first={yesterday}&last={tomorrow}"
    lines = list(csv.DictReader(io.StringIO(paybus.api("GET", "payouts", url).text)))
    (mine,) = [each for each in lines if each["id"] == payout["id"]]
    assert (mine["amount"], mine["state"], mine["recipient"]) == (
        "1234",
        "paid",
        seller["reference"],
    )
    url = f"/v1/reports/payouts.csv?first={tomorrow}&last={yesterday}"
    assert paybus.api("GET", "payouts", url).status_code == 400


@pytest.mark.usefixtures("running")
def test_the_command_line_does_what_the_api_does(paybus: Paybus, tmp_path: Any) -> None:
    seller = add(paybus, "stripe")
    ordered = cli(paybus, "create", seller["reference"], "150000", "USD", "--key", "cli-1")
    id_, state = ordered.stdout.split()
    assert state == "scheduled"
    refused = cli(paybus, "approve", id_, "--reason", "fine")
    assert refused.returncode == 1
    assert "403: the person who ordered a payout can't approve it" in refused.stderr
    boss = {"PAYBUS_TOKEN": paybus.token("approver", subject="boss")}
    assert "approved" in cli(paybus, "approve", id_, "--reason", "fine", **boss).stdout
    until_state(paybus, {"id": id_}, "paid")
    shown = json.loads(cli(paybus, "show", id_).stdout)
    assert [each["action"] for each in shown["audit"]][-2:] == ["approve", "create"]
    assert json.loads(cli(paybus, "list", "--state", "paid", "--json").stdout)
    assert "paid" in cli(paybus, "status").stdout
    file = tmp_path / "friday.csv"
    file.write_text(
        "recipient,amount,currency\n"
        + "".join(f"{seller['reference']},{100 + n},USD\n" for n in range(5))
    )
    batch = cli(paybus, "batch", str(file), "--key", "friday")
    assert (batch.returncode, "5 paid" in batch.stdout) == (0, True), batch.stderr
    again = cli(paybus, "batch", str(file), "--key", "friday")
    assert again.stdout.split()[1] == batch.stdout.split()[1]  # the same batch
    file.write_text("recipient,amount,currency\nx,1.5,USD\n")
    assert ":2: expected recipient, amount" in cli(paybus, "batch", str(file)).stderr
    file.write_text(f"recipient,amount,currency,funding\n{seller['reference']},5,USD,balance\n")
    refused = cli(paybus, "batch", str(file))
    assert (refused.returncode, "unsupported column funding" in refused.stderr) == (1, True)
    assert "paused" in cli(paybus, "pause", "--reason", "fraud").stdout
    assert "PAUSED by" in cli(paybus, "status").stdout
    assert cli(paybus, "resume", "--reason", "over").returncode == 0
    days = (str(TODAY - timedelta(days=1)), str(TODAY + timedelta(days=1)))
    assert id_ in cli(paybus, "export", *days).stdout
    assert cli(paybus, "show", "nothing").returncode == 1
    down = cli(paybus, "status", PAYOUTS_URL="http://127.0.0.1:9")
    assert (down.returncode, "can't be reached" in down.stderr) == (1, True)


@pytest.mark.usefixtures("running")
def test_keys_are_rotated_while_everything_runs(make_paybus: MakePaybus) -> None:
    new = new_key("payouts")
    with make_paybus(PROCESSES, payout_options=OPTIONS, **QUICK) as paybus:
        well(paybus)
        seller = add(paybus, "fapshi")
        until_state(paybus, order(paybus, seller), "paid")
        sealed = paybus.sql("payouts", "SELECT details FROM recipients")[0][0]
        processes = ("payouts-api", "payouts-worker")
        old = ENCRYPTION_KEY
        # As in docs/runbooks/keys-and-certificates.md; meanwhile recipients are added and paid.
        for keys in (f"{old},{new}", f"{new},{old}"):
            for name in processes:
                paybus.system.processes.pop(name).stop()
                spec = paybus.layout.spec(name, ENCRYPTION_KEYS=keys)
                paybus.system.start_one(spec).wait_ready()
                if "payouts-api" in paybus.system.processes:
                    until_state(paybus, order(paybus, add(paybus, "fapshi")), "paid")
        assert rotate(paybus, "payouts", f"{new},{old}").returncode == 0
        again = rotate(paybus, "payouts", f"{new},{old}")
        assert again.stdout == "0 encrypted with the first key\n"
        assert paybus.sql("payouts", "SELECT details FROM recipients")[0][0] != sealed
        for name in processes:
            paybus.system.processes.pop(name).stop()
            paybus.system.start_one(paybus.layout.spec(name, ENCRYPTION_KEYS=new)).wait_ready()
        payout = order(paybus, seller)
        until_state(paybus, payout, "paid")
        lost = rotate(paybus, "payouts", ENCRYPTION_KEY)
        assert lost.returncode == 1
        assert "no key in ENCRYPTION_KEYS decrypts recipients/" in lost.stderr
        assert read(paybus, payout["id"])["state"] == "paid"


@pytest.mark.usefixtures("running")
def test_what_square_could_not_pay_is_not_tried_again_here(paybus: Paybus) -> None:
    location = f"L{uuid4().hex[:10].upper()}"
    seller = add(paybus, "square", details={"location_id": location})
    made = sandbox(paybus, "POST", "/_square/payouts", amount=900, location_id=location)
    sandbox(paybus, "PUT", f"/_square/payouts/{made['id']}", status="FAILED")
    url = f"/v1/payouts?recipient_id={seller['id']}"

    def only() -> dict[str, Any]:
        found: list[dict[str, Any]] = paybus.api("GET", "payouts", url).json()["items"]
        return found[0] if found else {}

    until(lambda: only().get("state") == "failed", what="it failed")
    assert only()["next_action_at"] is None
    refused = act(paybus, "retry", only()["id"])
    assert (refused.status_code, "pays by itself" in refused.text) == (409, True)


@pytest.mark.usefixtures("running")
def test_a_square_payout_whose_webhook_was_lost_is_asked_about(paybus: Paybus) -> None:
    location = f"L{uuid4().hex[:10].upper()}"
    seller = add(paybus, "square", details={"location_id": location})
    made = sandbox(paybus, "POST", "/_square/payouts", amount=900, location_id=location)
    until(lambda: balances(paybus, seller).get("pending") == 900, what="it is on its way")
    deliver(paybus, drop=1)
    sandbox(paybus, "PUT", f"/_square/payouts/{made['id']}", status="PAID")
    paybus.sql("payouts", "UPDATE payouts SET next_action_at = now() WHERE state = 'submitted'")
    until(lambda: balances(paybus, seller)["paid"] == 900, what="it is paid")


@pytest.mark.usefixtures("running")
def test_a_difference_is_resolved_by_a_person_who_says_why(paybus: Paybus) -> None:
    sandbox(paybus, "POST", "/_payouts/foreign", provider="stripe", amount=77)
    (found,) = [each for each in reconcile(paybus) if each["theirs"].startswith("77 ")]
    url = f"/v1/reports/discrepancies/{found['id']}/resolve"
    why = {"reason": "paid by hand"}
    assert paybus.api("POST", "payouts", url, json=why).status_code == 403
    done = paybus.api("POST", "payouts", url, json=why, role="approver")
    assert done.json()["resolved_by"] == "dev-approver"
    assert paybus.api("POST", "payouts", url, json=why, role="approver").status_code == 409
    assert found["id"] not in {each["id"] for each in reconcile(paybus)}

"""docs/runbooks/payouts-restore.md, executed line by line: for any time of the backup and any
schedule, each recipient gets each amount once.

The commands are read from the runbook and run as an operator runs them; only `kubectl` is replaced
by stopping and starting the worker.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from conftest import MakePaybus
from support.paybus import Paybus
from support.payouts import (
    OPTIONS,
    PROCESSES,
    QUICK,
    act,
    add,
    balances,
    behave,
    deliver,
    details,
    earned,
    fates,
    look_now,
    order,
    post,
    read,
    request_for,
    sandbox,
    sent_earlier,
    transfers,
    until_state,
    well,
)
from support.runbook import RUNBOOKS, copy_database, run_command
from support.waiting import until

RUNBOOK = RUNBOOKS / "payouts-restore.md"
SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "daily": ("stripe", {"kind": "daily", "hour": 6}),
    "weekly": ("dwolla", {"kind": "weekly", "weekday": 5, "zone": "Africa/Douala"}),
    "threshold": ("fapshi", {"kind": "threshold", "minimum": 5000}),
    "manual": ("stripe", {"kind": "manual"}),  # paid immediately by orders' events
}
_BACKUP = "the_backup"


class Market:
    """Sellers with every kind of schedule, and their earnings and requests."""

    def __init__(self, paybus: Paybus, schedules: Collection[str] = tuple(SCHEDULES)) -> None:
        self.paybus = paybus
        self.sellers = {
            name: add(paybus, provider, schedule=schedule)
            for name, (provider, schedule) in SCHEDULES.items()
            if name in schedules
        }
        self.direct = add(paybus, "stripe")
        self.credits: list[tuple[str, int, str]] = []
        self.orders: list[tuple[int, str]] = []

    def earn(self, amount: int) -> None:
        """Each seller earns the amount, by an event of the marketplace or by the API."""
        for name, seller in self.sellers.items():
            key = uuid4().hex
            if name == "manual":
                self._report(seller, amount, key)
            else:
                self.credits.append((name, amount, key))
                self._credit(name, amount, key)
        self.orders.append((amount, uuid4().hex))
        order(self.paybus, self.direct, amount, key=self.orders[-1][1])

    def ask_again(self) -> None:
        """Callers repeat all their requests with the original keys."""
        for name, amount, key in self.credits:
            self._credit(name, amount, key)
        for amount, key in self.orders:
            body = request_for(self.direct, amount)
            answer = post(self.paybus, "payouts", body, key=key)
            assert answer.status_code == 201, answer.text

    def time_comes(self) -> None:
        self.paybus.sql(
            "payouts",
            "UPDATE recipients SET next_payout_at = now() WHERE next_payout_at IS NOT NULL",
        )
        self.paybus.api("POST", "payouts", "/v1/schedules/pay-balances/run").raise_for_status()

    def at_the_provider(self) -> dict[str, int]:
        """Return the amount that each seller has received, by the providers' own books."""
        found = sandbox(self.paybus, "GET", "/_payouts")["transfers"]
        owners = dict(
            self.paybus.sql(
                "payouts",
                "SELECT payouts.id, reference FROM payouts JOIN recipients "
                "ON recipients.id = recipient_id",
            )
        )
        names = {each["reference"]: name for name, each in self.everybody().items()}
        sums = dict.fromkeys(names.values(), 0)
        for each in found:
            owner = owners.get(each["reference"])
            assert owner is not None, f"{each} is of no payout in the books"
            if owner in names and each["status"] in {"pending", "paid"}:
                sums[names[owner]] += each["amount"]
        return sums

    def in_the_books(self) -> dict[str, int]:
        return {
            name: balances(self.paybus, s).get("paid", 0) for name, s in self.everybody().items()
        }

    def everybody(self) -> dict[str, dict[str, Any]]:
        return {**self.sellers, "direct": self.direct}

    def all_have(self, amount: int) -> None:
        wanted = dict.fromkeys(self.everybody(), amount)

        def paid() -> bool:
            if self.in_the_books() == wanted:
                return True
            self.time_comes()
            return False

        until(paid, what=f"everybody is paid {amount}, by the books", pause=0.5)
        assert self.at_the_provider() == wanted

    def _credit(self, name: str, amount: int, key: str) -> None:
        seller = self.sellers[name]
        body = {"amount": amount, "currency": seller["currency"], "reason": "a sale"}
        answer = post(self.paybus, f"recipients/{seller['id']}/credits", body, key=key)
        assert answer.status_code == 201, answer.text

    def _report(self, seller: dict[str, Any], amount: int, key: str) -> None:
        event = earned(seller, amount, key)
        self.paybus.publish_to("payouts", event.type, event.encode().decode())


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    names = [*PROCESSES, "operations-api", "operations-worker"]
    with make_paybus(names, payout_options=OPTIONS, **QUICK) as paybus:
        yield paybus


@pytest.fixture(autouse=True)
def everything_well(paybus: Paybus) -> None:
    well(paybus)


def _stop(paybus: Paybus, *names: str) -> None:
    for name in names:
        if name in paybus.system.processes:
            paybus.system.processes.pop(name).stop()


def back_up(paybus: Paybus) -> datetime:
    """Back up the database; return the time."""
    _stop(paybus, "payouts-api", "payouts-worker")
    at = datetime.now(UTC)
    copy_database(paybus, "payouts", to=_BACKUP)
    paybus.start("payouts-api", "payouts-worker")
    return at


def restore(paybus: Paybus) -> None:
    _stop(paybus, "payouts-api")
    copy_database(paybus, "payouts", of=_BACKUP)
    paybus.start("payouts-api")


# A command and the role that it requires.
_COMMAND = re.compile(
    r"`((?:kubectl annotate|paybus(?:-payouts)?) [^`]+)`(?:\s+\(role\s+`(\w+)`\))?"
)


class Walk:
    """Executes the runbook's lines in order, each command as written. `corrected` are recipients'
    new details, by id."""

    def __init__(
        self,
        paybus: Paybus,
        market: Market,
        backup: datetime,
        *,
        corrected: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        self._paybus = paybus
        self._market = market
        self._times = {
            "TIME": backup.isoformat(),
            "EARLIER": (backup - timedelta(days=1)).isoformat(),
            "NOW": datetime.now(UTC).isoformat(),
        }
        self._corrected = corrected or {}
        self.ran: list[str] = []

    def run(self, first: int = 1, last: int = 9) -> None:
        """Execute the lines from `first` to `last`."""
        text = RUNBOOK.read_text()
        lines = re.split(r"^(?=\d+\. )", text, flags=re.MULTILINE)[1:]
        assert [line.partition(".")[0] for line in lines] == [str(n) for n in range(1, 10)]
        for number, line in enumerate(lines[first - 1 : last], start=first):
            for command, role in _COMMAND.findall(line):
                if "corrected details" not in command:
                    self._command(command, role)
                elif self._corrected:
                    self._correct(command, role)
            self._by_hand(number)

    def _correct(self, command: str, role: str) -> None:
        for id_, new in self._corrected.items():
            correct_details(self._paybus, id_, new)
        self._command(command, role)
        self._command("paybus-payouts wait-reconciled", "viewer")

    def _by_hand(self, number: int) -> None:
        """Perform the manual step of a line."""
        match number:
            case 2:
                restore(self._paybus)
            case 4:
                refused = post(self._paybus, "payouts", request_for(self._market.direct))
                assert refused.status_code == 503, refused.text
                assert int(refused.headers["Retry-After"]) > 0
            case 7:
                self._market.ask_again()

    def _command(self, text: str, role: str) -> None:
        self.ran.append(text)
        words = shlex.split(text)
        if words[0] == "kubectl":
            if text.endswith("paused-replicas=0"):
                _stop(self._paybus, "payouts-worker")
            else:
                self._paybus.start("payouts-worker")
            return
        run_command(self._paybus, words, role=role or "viewer", values=self._times)


def correct_details(paybus: Paybus, recipient_id: str, details: dict[str, Any]) -> None:
    url, change = f"/v1/recipients/{recipient_id}", {"details": details, "reason": "moved"}
    paybus.api("PATCH", "payouts", url, json=change, role="approver").raise_for_status()


def nothing_yet(market: Market) -> datetime:
    return back_up(market.paybus)


def while_it_is_sent(market: Market) -> datetime:
    """Create transfers at the providers whose responses and webhooks are lost."""
    behave(market.paybus, lost=1)
    deliver(market.paybus, drop=1)
    market.earn(2000)  # enough for the threshold, too

    def unknown() -> bool:
        query = "SELECT DISTINCT recipient_id FROM payouts WHERE state = 'unknown'"
        found = {id_ for (id_,) in market.paybus.sql("payouts", query)}
        return {each["id"] for each in market.everybody().values()} <= found

    def unknown_after_a_while() -> bool:
        market.time_comes()
        return unknown()

    until(unknown_after_a_while, what="each has an unknown one", pause=0.5)
    at = back_up(market.paybus)
    well(market.paybus)
    return at


def after_a_first_one(market: Market) -> datetime:
    market.earn(2000)
    market.all_have(6000)
    return back_up(market.paybus)


MOMENTS: dict[str, Callable[[Market], datetime]] = {
    "before it is ordered": nothing_yet,
    "while it is sent": while_it_is_sent,
    "between two payouts": after_a_first_one,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_each_amount_is_paid_once_after_a_restore(paybus: Paybus, moment: str) -> None:
    market = Market(paybus)
    market.earn(4000)
    backup = MOMENTS[moment](market)
    # Events after the backup, which the restore loses: two more payouts to each.
    earned, more = (4000, 2000) if moment == "before it is ordered" else (6000, 5000)
    for amount in (more, 6000):
        market.earn(amount)
        earned += amount
        market.all_have(earned)
    walk = Walk(paybus, market, backup - timedelta(seconds=1))
    walk.run()
    assert len(walk.ran) >= 9
    market.all_have(earned)
    status = paybus.api("GET", "payouts", "/v1/control").json()
    assert (status["unreconciled"], status["control"]["paused"]) == ([], False)
    market.earn(5000)
    market.all_have(earned + 5000)
    assert paybus.metric("payouts-worker", "paybus_payout_duplicate_transfers_total") == 0


def test_a_schedule_s_payout_that_no_list_shows_yet_is_found_by_its_name(paybus: Paybus) -> None:
    """The status check before each payout finds what reconciliation cannot see: the schedule's next
    payout has the reference of the lost one."""
    market = Market(paybus, ("threshold", "weekly"))
    market.earn(4000)
    backup = back_up(paybus)
    market.earn(2000)
    market.all_have(6000)
    behave(paybus, lists_lag_seconds=3600)
    Walk(paybus, market, backup).run(last=8)  # the status checks are not ended early
    market.all_have(6000)


@pytest.mark.parametrize("provider", ["stripe", "dwolla"])
def test_what_the_backup_has_as_unsent_is_not_paid_again(paybus: Paybus, provider: str) -> None:
    """One waited for an approval, one was held. Both were paid after the backup, and the providers
    have forgotten the keys when an operator approves and releases them again."""
    market, seller = Market(paybus, ()), add(paybus, provider)
    waiting = order(paybus, seller, 150_000)
    later = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    held = order(paybus, seller, 5000, due_at=later)
    act(paybus, "hold", held["id"]).raise_for_status()
    backup = back_up(paybus)
    act(paybus, "approve", waiting["id"], role="approver", subject="boss").raise_for_status()
    act(paybus, "release", held["id"]).raise_for_status()
    for payout in (waiting, held):
        until_state(paybus, payout, "paid", "submitted")
    Walk(paybus, market, backup - timedelta(seconds=1)).run()
    sandbox(paybus, "POST", "/_payouts/clock", seconds=90_000)
    assert act(paybus, "approve", waiting["id"], role="approver").status_code == 409
    act(paybus, "release", held["id"])
    look_now(paybus, held)
    for payout in (waiting, held):
        until_state(paybus, payout, "paid")
        assert len(transfers(paybus, payout)) == 1
    sandbox(paybus, "POST", "/_payouts/clock", seconds=-90_000)


def test_what_was_paid_by_details_that_were_corrected_since_is_not_paid_again(
    paybus: Paybus,
) -> None:
    """Stripe lists payouts of connected accounts by account: the old account is queried, too."""
    market = Market(paybus, ())
    seller = add(paybus, "stripe", details=details("stripe", via="payout"))
    later = (datetime.now(UTC) + timedelta(seconds=4)).isoformat()
    payout = order(paybus, seller, 5000, due_at=later)
    backup = back_up(paybus)
    until_state(paybus, payout, "paid")
    new = details("stripe", via="payout")
    correct_details(paybus, seller["id"], new)
    after = order(paybus, seller, 700)
    until_state(paybus, after, "paid")
    walk = Walk(paybus, market, backup - timedelta(seconds=1), corrected={seller["id"]: new})
    walk.run(last=6)
    sandbox(paybus, "POST", "/_payouts/clock", seconds=90_000)
    walk.run(first=7, last=8)
    assert sent_to(paybus, seller) == [(700, "paid"), (5000, "paid")]
    look_now(paybus, payout)
    until_state(paybus, payout, "paid")
    assert sent_to(paybus, seller) == [(700, "paid"), (5000, "paid")]
    sandbox(paybus, "POST", "/_payouts/clock", seconds=-90_000)


def sent_to(paybus: Paybus, seller: dict[str, Any]) -> list[tuple[int, str]]:
    """Return the amounts and statuses in the provider's books, less partial returns."""
    query = "SELECT id FROM payouts WHERE recipient_id = %s"
    ids = {id_ for (id_,) in paybus.sql("payouts", query, seller["id"])}
    found = sandbox(paybus, "GET", "/_payouts")["transfers"]
    return sorted(
        (each["amount"] - each["returned_part"], each["status"])
        for each in found
        if each["reference"] in ids
    )


def test_what_was_taken_back_after_the_backup_is_not_paid_by_a_schedule(paybus: Paybus) -> None:
    """The schedule becomes due during reconciliation, before the reversal is replayed."""
    market = Market(paybus, ())
    seller = add(paybus, "stripe", schedule={"kind": "daily", "hour": 6})
    market._report(seller, 5000, uuid4().hex)
    until(lambda: balances(paybus, seller).get("available") == 5000, what="it is earned")
    backup = back_up(paybus)
    event = earned(seller, 5000, type_="earnings.reverse")
    paybus.publish_to("payouts", event.type, event.encode().decode())
    until(lambda: balances(paybus, seller)["available"] == 0, what="the buyer got it back")
    walk = Walk(paybus, market, backup - timedelta(seconds=1))
    walk.run(last=6)
    runs = "SELECT last_run_at FROM schedules WHERE name = 'pay-balances'"
    before = paybus.sql("payouts", runs)
    market.time_comes()
    until(lambda: paybus.sql("payouts", runs) != before, what="it has run")
    walk.run(first=7)
    until(lambda: balances(paybus, seller)["available"] == 0, what="it is taken back again")
    market.time_comes()
    assert balances(paybus, seller)["pending"] == 0
    assert sent_to(paybus, seller) == []


def test_what_was_under_way_at_the_moment_of_the_backup_is_not_lost(paybus: Paybus) -> None:
    """It was published before the backup and processed after it."""
    market = Market(paybus, ())
    seller = add(paybus, "stripe", schedule={"kind": "manual"})
    _stop(paybus, "payouts-worker")
    market._report(seller, 700, uuid4().hex)
    backup = back_up(paybus)
    until(lambda: sent_to(paybus, seller) == [(700, "paid")], what="it is paid after the backup")
    Walk(paybus, market, backup).run(last=8)
    until(lambda: balances(paybus, seller)["available"] == 0, what="it is earned again")
    assert sent_to(paybus, seller) == [(700, "paid")]


def came_back(paybus: Paybus) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a recipient with a daily schedule and a returned payout of 5000."""
    seller = add(paybus, "stripe", schedule={"kind": "daily", "hour": 6})
    payout = order(paybus, seller, 5000)
    until_state(paybus, payout, "paid")
    (first,) = transfers(paybus, payout)
    sandbox(paybus, "PUT", f"/_payouts/transfers/{first['id']}", status="returned")
    until_state(paybus, payout, "returned")
    sent_earlier(paybus, payout, days=3)
    return seller, payout


def test_what_came_back_before_the_backup_and_was_paid_after_it_is_not_paid_again(
    paybus: Paybus,
) -> None:
    """The schedule would pay it under another reference, which no status check would find."""
    market = Market(paybus, ())
    seller, payout = came_back(paybus)
    backup = back_up(paybus)
    act(paybus, "retry", payout["id"]).raise_for_status()
    until_state(paybus, payout, "paid")
    Walk(paybus, market, backup - timedelta(seconds=1)).run()
    until_state(paybus, payout, "paid")
    assert balances(paybus, seller)["available"] == 0, "there is nothing for the schedule to pay"
    market.time_comes()
    assert [each["status"] for each in transfers(paybus, payout)] == ["returned", "paid"]


def test_what_came_back_is_not_retried_before_its_account_is_compared(paybus: Paybus) -> None:
    """The recipient's schedule has paid it by a payout that the database has lost."""
    market = Market(paybus, ())
    seller, payout = came_back(paybus)
    backup = back_up(paybus)
    market.time_comes()
    until(lambda: balances(paybus, seller)["paid"] == 5000, what="the schedule has paid it")
    walk = Walk(paybus, market, backup - timedelta(seconds=1))
    walk.run(last=4)
    refused = act(paybus, "retry", payout["id"])
    assert (refused.status_code, "not reconciled yet" in refused.text) == (503, True)
    walk.run(first=5)
    assert act(paybus, "retry", payout["id"]).status_code == 409, "nothing is left to pay it with"
    assert balances(paybus, seller)["paid"] == 5000


def test_what_was_cancelled_after_the_backup_waits_for_somebody(paybus: Paybus) -> None:
    """Another payout has paid the amount: approving this one would pay it again."""
    market = Market(paybus, ())
    seller = add(paybus, "stripe", schedule={"kind": "daily", "hour": 6})
    market._report(seller, 150_000, uuid4().hex)
    until(lambda: balances(paybus, seller).get("available") == 150_000, what="it is earned")
    market.time_comes()
    url = f"/v1/payouts?recipient_id={seller['id']}"

    def all_of_it() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = paybus.api("GET", "payouts", url).json()["items"]
        return items

    (waiting,) = until(all_of_it, what="a payout waits for its approval")
    assert waiting["state"] == "scheduled"
    backup = back_up(paybus)
    act(paybus, "cancel", waiting["id"]).raise_for_status()
    market.time_comes()
    until(lambda: len(all_of_it()) == 2, what="the next day orders it again")
    other = next(each for each in all_of_it() if each["id"] != waiting["id"])
    act(paybus, "approve", other["id"], role="approver", subject="boss").raise_for_status()
    until_state(paybus, other, "paid")
    Walk(paybus, market, backup - timedelta(seconds=1)).run()
    assert read(paybus, waiting["id"])["held"] is True
    act(paybus, "approve", waiting["id"], role="approver", subject="boss")
    market.time_comes()
    assert transfers(paybus, waiting) == []


def test_an_order_of_which_a_part_came_back_is_claimed(paybus: Paybus) -> None:
    """The returned part is owed again, and the caller's key still identifies the payout."""
    market, seller = Market(paybus, ()), add(paybus, "stripe")
    backup = back_up(paybus)
    payout = order(paybus, seller, 5000, key="in-part")
    until_state(paybus, payout, "paid")
    (made,) = transfers(paybus, payout)
    sandbox(paybus, "PUT", f"/_payouts/transfers/{made['id']}", part=1000)
    Walk(paybus, market, backup - timedelta(seconds=1)).run()
    again = post(paybus, "payouts", request_for(seller, 5000), key="in-part")
    assert again.status_code == 201, again.text
    assert balances(paybus, seller) | {"platform": 0} == {
        "platform": 0,
        "available": 1000,
        "pending": 0,
        "paid": 4000,
        "fees": 0,
    }


def test_earnings_of_several_payouts_are_all_ordered_again(paybus: Paybus) -> None:
    """12,000,000 are payouts of 5, 5 and 2 million; one was paid, the others waited."""
    market = Market(paybus, ())
    seller = add(paybus, "fapshi", schedule={"kind": "manual"})
    backup = back_up(paybus)
    market._report(seller, 12_000_000, uuid4().hex)
    url = f"/v1/payouts?recipient_id={seller['id']}"

    def ordered() -> list[tuple[int, str]]:
        items = paybus.api("GET", "payouts", url).json()["items"]
        return sorted((each["amount"], each["state"]) for each in items)

    until(lambda: len(ordered()) == 3, what="three are ordered")
    items = paybus.api("GET", "payouts", url).json()["items"]
    first = next(each for each in items if each["amount"] == 5_000_000)
    act(paybus, "approve", first["id"], role="approver", subject="boss").raise_for_status()
    until_state(paybus, first, "paid")
    before = ordered()
    Walk(paybus, market, backup - timedelta(seconds=1)).run()
    until(lambda: ordered() == before, what="all three are there again")


def ordered(paybus: Paybus, recipient: dict[str, Any]) -> list[int]:
    url = f"/v1/payouts?recipient_id={recipient['id']}"
    return [each["amount"] for each in paybus.api("GET", "payouts", url).json()["items"]]


def forgotten(
    paybus: Paybus, seller: dict[str, Any], amount: int, key: str
) -> tuple[dict[str, Any], dict[str, Any], Walk]:
    """Return a payout created after the backup, its transfer, and the `Walk` that restores."""
    market, backup = Market(paybus, ()), back_up(paybus)
    payout = order(paybus, seller, amount, key=key)
    if amount > 100_000:
        boss = {"role": "approver", "subject": "boss"}
        act(paybus, "approve", payout["id"], **boss).raise_for_status()
    until(lambda: transfers(paybus, payout), what="its provider has it")
    (made,) = transfers(paybus, payout)
    return payout, made, Walk(paybus, market, backup - timedelta(seconds=1))


def test_who_repeats_an_order_that_was_given_up_since_gets_nothing(paybus: Paybus) -> None:
    fates(paybus, settle_seconds=600)
    seller = add(paybus, "dwolla")
    payout, made, walk = forgotten(paybus, seller, 5000, "given-up")
    until_state(paybus, payout, "submitted")
    walk.run()
    sandbox(paybus, "PUT", f"/_payouts/transfers/{made['id']}", status="failed")
    until_state(paybus, payout, "failed")
    act(paybus, "cancel", payout["id"]).raise_for_status()
    again = post(paybus, "payouts", request_for(seller, 5000), key="given-up").json()
    assert (again["id"], again["state"]) == (payout["id"], "cancelled")
    assert balances(paybus, seller)["available"] == 0


def test_a_retry_that_is_given_up_stays_owed_although_its_order_was_repeated(
    paybus: Paybus,
) -> None:
    seller = add(paybus, "stripe")
    payout, made, walk = forgotten(paybus, seller, 150_000, "retried")
    until_state(paybus, payout, "paid")
    walk.run()
    sandbox(paybus, "PUT", f"/_payouts/transfers/{made['id']}", status="returned")
    until_state(paybus, payout, "returned")
    body = {"amount": 150_000, "currency": "USD", "reason": "sales"}
    post(paybus, f"recipients/{seller['id']}/credits", body, subject="ama").raise_for_status()
    assert act(paybus, "retry", payout["id"]).json()["state"] == "scheduled"
    post(paybus, "payouts", request_for(seller, 150_000), key="retried").raise_for_status()
    act(paybus, "cancel", payout["id"]).raise_for_status()
    assert balances(paybus, seller)["available"] == 300_000


def test_nobody_alone_sends_elsewhere_what_a_restore_forgot_the_approval_of(
    paybus: Paybus,
) -> None:
    fates(paybus, settle_seconds=600)
    seller = add(paybus, "dwolla")
    payout, made, walk = forgotten(paybus, seller, 150_000, "redirected")
    until_state(paybus, payout, "submitted")
    walk.run()
    sandbox(paybus, "PUT", f"/_payouts/transfers/{made['id']}", status="failed")
    until_state(paybus, payout, "failed")
    eve = {"role": "approver", "subject": "eve"}
    change = {"details": details("dwolla"), "reason": "moved"}
    url = f"/v1/recipients/{seller['id']}"
    assert paybus.api("PATCH", "payouts", url, json=change, **eve).is_success
    act(paybus, "retry", payout["id"], **eve).raise_for_status()
    until_state(paybus, payout, "scheduled")
    assert act(paybus, "approve", payout["id"], **eve).status_code == 403
    assert len(transfers(paybus, payout)) == 1


def test_nothing_is_sent_from_an_account_before_it_is_compared(paybus: Paybus) -> None:
    """Even if an operator resumes early: one account is not reconciled, the others are paid."""
    market = Market(paybus, ())
    seller, other = add(paybus, "stripe"), add(paybus, "fapshi")
    daily = add(paybus, "stripe", schedule={"kind": "daily", "hour": 6})
    manual = add(paybus, "stripe", schedule={"kind": "manual"})
    market._report(daily, 5000, uuid4().hex)
    until(lambda: balances(paybus, daily).get("available") == 5000, what="it is earned")
    waiting = order(paybus, seller, 150_000)
    stray = {
        "amount": 100,
        "currency": "usd",
        "destination": "acct_of_somebody_new",
        "transfer_group": str(uuid4()),
        "metadata[paybus_recipient]": str(uuid4()),  # a recipient added since the backup
    }
    url = f"{paybus.layout.url('sandbox-providers')}/stripe/v1/transfers"
    headers = {"Authorization": "Bearer sk_test_payouts"}
    paybus.http.post(url, data=stray, headers=headers).raise_for_status()

    def require_status_check(**body: Any) -> None:
        url = "/v1/control/require-status-check"
        body |= {"reason": "restored"}
        paybus.api("POST", "payouts", url, json=body, role="admin").raise_for_status()

    require_status_check(days=30, since=(datetime.now(UTC) - timedelta(minutes=5)).isoformat())
    approved = act(paybus, "approve", waiting["id"], role="approver", subject="boss")
    assert approved.json()["state"] == "approved"

    def unreconciled() -> set[str]:
        status = paybus.api("GET", "payouts", "/v1/control").json()
        assert not status["control"]["paused"]
        return {f"{each['provider']}: {each['fault']}" for each in status["unreconciled"]}

    until(
        lambda: len(found := unreconciled()) == 1 and "recipient" in found.pop(),
        what="only Stripe's account waits, and says for what",
    )
    assert post(paybus, "payouts", request_for(seller)).status_code == 503
    market.time_comes()
    market._report(manual, 700, uuid4().hex)
    look_now(paybus, waiting)
    until_state(paybus, order(paybus, other), "paid")
    until(lambda: paybus.depths()["payouts.jobs"] == 0, what="its schedule was looked at")
    assert transfers(paybus, waiting) == []
    assert ordered(paybus, daily) == ordered(paybus, manual) == []
    require_status_check(days=0)
    market.time_comes()
    until(lambda: ordered(paybus, daily) == [5000], what="its schedule pays it")
    until(lambda: ordered(paybus, manual) == [700], what="what was requested is ordered")
    until_state(paybus, waiting, "paid")
    assert len(transfers(paybus, waiting)) == 1

"""Banks are linked and stay in sync, whatever happens at the bank, at Plaid and in between."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from conftest import MakePaybus
from support.banks import (
    OPTIONS,
    PROCESSES,
    QUICK,
    at_paybus,
    at_the_bank,
    everything,
    exchange,
    get,
    happen,
    link,
    open_items,
    until_synced,
)
from support.mobile_money import sandbox
from support.paybus import Paybus
from support.payouts import deliver
from support.waiting import until


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(PROCESSES, bank_options=OPTIONS, **QUICK) as paybus:
        paybus.tap("banking", "#")
        yield paybus


@pytest.fixture(autouse=True)
def everything_well(paybus: Paybus) -> None:
    deliver(paybus)
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    sandbox(paybus, "PUT", "/plaid/_limits", per_minute=None)


def until_equal(paybus: Paybus, item: dict[str, str]) -> None:
    until(
        lambda: at_paybus(paybus, item) == at_the_bank(paybus, item),
        what="the books are equal",
        pause=0.2,
    )
    until_synced(paybus, item)


def test_a_linked_bank_is_synced_and_stays_so(paybus: Paybus) -> None:
    item = link(paybus, transactions=1200, user="ama")
    assert (item["health"], item["what_to_do"], item["institution_id"]) == (
        "healthy",
        None,
        "ins_109508",
    )
    until_equal(paybus, item)
    happen(paybus, item, add=5, modify=7, remove=3, post=4)
    until_equal(paybus, item)
    mine = get(paybus, f"items/{item['id']}")
    assert (mine["complete"], mine["user"]) == (True, "ama")
    told = [each for each in paybus.tapped() if each["subject"] == item["id"]]
    assert {"bank_item.linked", "transactions.synced"} <= {each["type"] for each in told}


def test_data_that_changes_between_two_pages_is_read_again(paybus: Paybus) -> None:
    item = link(paybus, transactions=10)
    until_synced(paybus, item)
    happen(paybus, item, add=1100, mutate=2)
    until_equal(paybus, item)
    assert max(each["restarts"] for each in get(paybus, "syncs", item=item["id"])["items"]) == 2


def test_when_plaid_refuses_the_cursor_everything_is_read_again_once(paybus: Paybus) -> None:
    # Several a day, so that those of the first day are not all removed: it is not known of what is
    # older than all that Plaid lists whether it was removed.
    item = link(paybus, transactions=400)
    until_synced(paybus, item)
    assert get(paybus, f"items/{item['id']}")["resynced_at"] is None
    happen(paybus, item, add=3, modify=2, remove=5, forget_cursors=True)
    until_equal(paybus, item)
    found = get(paybus, f"items/{item['id']}")
    assert (found["health"], found["resynced_at"] is not None) == ("healthy", True)
    last = get(paybus, "syncs", item=item["id"])["items"][0]
    assert (last["status"], last["attempts"]) == ("done", 1)
    assert last["removed"] >= 5, "Plaid reports no removals from the beginning"
    happen(paybus, item, add=1)
    until_equal(paybus, item)
    assert get(paybus, f"items/{item['id']}")["resynced_at"] == found["resynced_at"]


def test_empty_pages_after_linking_are_normal(paybus: Paybus) -> None:
    (made,) = open_items(paybus, transactions=30)
    sandbox(paybus, "POST", f"/plaid/_items/{made['item_id']}/happenings", ready=False)
    item = exchange(paybus, made["public_token"])
    until_synced(paybus, item)
    assert everything(paybus, "transactions", item=item["id"]) == []
    assert not get(paybus, f"items/{item['id']}")["complete"]
    happen(paybus, item, ready=True)
    until(lambda: get(paybus, f"items/{item['id']}")["complete"], what="the history is there")
    until_equal(paybus, item)


def test_a_webhook_that_never_came_is_healed_by_the_sweep(paybus: Paybus) -> None:
    item = link(paybus)
    until_synced(paybus, item)
    deliver(paybus, drop=1)
    happen(paybus, item, add=3, remove=1)
    sweep_now(paybus, item)
    until_equal(paybus, item)


def test_webhooks_that_come_meanwhile_cause_one_more_sync(paybus: Paybus) -> None:
    item = link(paybus)
    until_synced(paybus, item)
    before = len(everything(paybus, "syncs", item=item["id"]))
    sandbox(paybus, "PUT", "/_behaviour", delay_seconds=0.7)
    for _ in range(10):
        happen(paybus, item, add=1)
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    until_equal(paybus, item)
    # At most one while they arrived and one after; it covers each webhook that waited.
    assert len(everything(paybus, "syncs", item=item["id"])) - before <= 4


def test_plaid_s_limits_only_make_it_later(paybus: Paybus) -> None:
    sandbox(paybus, "PUT", "/plaid/_limits", per_minute=2)
    item = link(paybus, transactions=1200)
    until(lambda: sandbox(paybus, "GET", "/plaid/_books")["rate_limited"], what="it is limited")
    sandbox(paybus, "PUT", "/plaid/_limits", per_minute=None)
    until_equal(paybus, item)
    first = get(paybus, "syncs", item=item["id"])["items"][-1]
    assert (first["cause"], first["attempts"]) == ("linked", 1), "it waited with what it had read"


def test_a_sync_that_may_not_begin_yet_uses_up_no_attempt(paybus: Paybus) -> None:
    item = link(paybus)
    until_synced(paybus, item)
    sandbox(paybus, "PUT", "/plaid/_limits", per_minute=1)
    happen(paybus, item, add=2, tell=False)
    sync = paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/sync").json()
    put_off = 10  # more often than a sync may fail
    until(lambda: get(paybus, f"syncs/{sync['id']}")["attempts"] > put_off, what="it is put off")
    assert get(paybus, f"syncs/{sync['id']}")["status"] == "running"
    sandbox(paybus, "PUT", "/plaid/_limits", per_minute=None)
    until_equal(paybus, item)
    assert paybus.dead_letters() == {}


def test_a_sync_that_waits_for_another_attempt_is_cancelled_at_once(paybus: Paybus) -> None:
    item = link(paybus)
    until_synced(paybus, item)
    sandbox(paybus, "PUT", "/plaid/_limits", per_minute=1)
    sync = paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/sync").json()
    path = f"syncs/{sync['id']}"
    until(lambda: get(paybus, path)["error"] is not None, what="it waits")
    assert paybus.api("POST", "bank-sync", f"/v1/{path}/cancel").status_code == 200
    until(lambda: get(paybus, path)["status"] == "cancelled", what="it ends")


def test_a_sync_that_fails_too_often_is_given_up_until_the_sweep(paybus: Paybus) -> None:
    item = link(paybus)
    until_synced(paybus, item)
    sandbox(paybus, "PUT", "/_behaviour", mode="fail")
    sync = paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/sync").json()
    until(lambda: get(paybus, f"syncs/{sync['id']}")["status"] == "failed", what="it is given up")
    assert "Plaid answers 503" in get(paybus, f"syncs/{sync['id']}")["error"]
    until(lambda: paybus.dead_letters() == {"bank-sync.syncs.dead": 1}, what="it is seen")
    paybus.messages("bank-sync.syncs.dead", remove=True)
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    happen(paybus, item, add=2, tell=False)
    sweep_now(paybus, item)
    until_equal(paybus, item)


def test_an_item_that_is_linked_again_is_read_from_the_beginning(paybus: Paybus) -> None:
    item = link(paybus, transactions=40)
    until_synced(paybus, item)
    sandbox(paybus, "PUT", "/_behaviour", mode="fail")
    assert paybus.api("DELETE", "bank-sync", f"/v1/items/{item['id']}").status_code == 202
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    token = sandbox(paybus, "POST", f"/plaid/_items/{item['item_id']}/public_token")
    again = exchange(paybus, token, user="ama")
    assert (again["id"], again["user"], again["removing_at"]) == (item["id"], "ama", None)
    until_equal(paybus, again)
    paybus.api("POST", "bank-sync", "/v1/schedules/removals/run")
    until_equal(paybus, again)


def test_a_worker_that_is_killed_while_it_syncs_is_replaced(paybus: Paybus) -> None:
    item = link(paybus, transactions=10)
    until_synced(paybus, item)
    happen(paybus, item, add=1500, tell=False)
    sandbox(paybus, "PUT", "/_behaviour", delay_seconds=0.5)
    assert paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/sync").status_code == 202
    until(
        lambda: get(paybus, "syncs", item=item["id"], status="running")["items"],
        what="a worker is at it",
    )
    paybus.system.processes["bank-sync-worker"].kill()
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    paybus.start("bank-sync-worker")
    until_equal(paybus, item)


def test_a_sync_shows_its_progress_and_can_be_cancelled(paybus: Paybus) -> None:
    item = link(paybus, transactions=10)
    until_synced(paybus, item)
    path = f"syncs/{read_slowly(paybus, item)}"
    assert paybus.api("POST", "bank-sync", f"/v1/{path}/cancel").json()["cancel_requested"]
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    until(lambda: get(paybus, path)["status"] == "cancelled", what="it ends")
    assert len(everything(paybus, "transactions", item=item["id"])) == 10
    assert paybus.api("POST", "bank-sync", f"/v1/{path}/cancel").status_code == 409
    assert paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/sync").status_code == 202
    until_equal(paybus, item)


def test_what_is_told_while_a_sync_reads_outlives_it(paybus: Paybus) -> None:
    item = link(paybus, transactions=10)
    until_synced(paybus, item)
    sync = read_slowly(paybus, item)
    error = {"error_type": "ITEM_ERROR", "error_code": "ITEM_LOGIN_REQUIRED"}
    url = f"/plaid/_items/{item['item_id']}/webhook?code=ERROR"
    sandbox(paybus, "POST", url, error=error)
    until(
        lambda: get(paybus, f"items/{item['id']}")["health"] == "login_required",
        what="it is broken",
    )
    assert get(paybus, f"syncs/{sync}")["status"] == "running"
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    until(lambda: get(paybus, f"syncs/{sync}")["status"] == "done", what="it is read")
    assert get(paybus, f"items/{item['id']}")["health"] == "login_required"


def test_a_balance_that_was_asked_for_outlives_a_sync_that_began_before(paybus: Paybus) -> None:
    item = link(paybus, transactions=10)
    until_synced(paybus, item)
    sync = read_slowly(paybus, item)
    live = get(paybus, f"items/{item['id']}/balances", max_age_seconds=0)
    assert live["fresh"]
    happen(paybus, item, add=1, tell=False)  # so that the sync's next page has another figure
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    until(lambda: get(paybus, f"syncs/{sync}")["status"] == "done", what="it is read")
    kept = {e["id"]: e["current"] for e in everything(paybus, "accounts", item=item["id"])}
    assert kept == {e["id"]: e["current"] for e in live["accounts"]}
    assert paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/sync").status_code == 202
    until_equal(paybus, item)


def test_a_first_sync_that_is_cancelled_is_left_to_the_sweep(paybus: Paybus) -> None:
    sandbox(paybus, "PUT", "/_behaviour", delay_seconds=0.5)
    item = link(paybus, transactions=2500)
    (sync,) = everything(paybus, "syncs", item=item["id"])
    path = f"syncs/{sync['id']}"
    assert paybus.api("POST", "bank-sync", f"/v1/{path}/cancel").status_code == 200
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    until(lambda: get(paybus, path)["status"] == "cancelled", what="it ends")
    assert everything(paybus, "transactions", item=item["id"]) == []
    ((planned,),) = paybus.sql(
        "bank-sync",
        "SELECT next_sync_at > now() FROM (SELECT set_config('paybus.every_tenant', 'on', true)) s,"
        " bank_items WHERE id = %s",
        item["id"],
    )
    assert planned
    sweep_now(paybus, item)
    until_equal(paybus, item)


def test_an_item_s_health_says_what_the_user_must_do(paybus: Paybus) -> None:
    item = link(paybus)
    until_synced(paybus, item)

    def health() -> str:
        word: str = get(paybus, f"items/{item['id']}")["health"]
        return word

    def bank_says(code: str, **more: Any) -> None:
        url = f"/plaid/_items/{item['item_id']}/webhook?code={code}"
        sandbox(paybus, "POST", url, **more)

    bank_says("NEW_ACCOUNTS_AVAILABLE")
    until(lambda: health() == "new_accounts", what="there are new accounts")
    bank_says("PENDING_DISCONNECT", reason="INSTITUTION_MIGRATION")
    until(lambda: health() == "pending_disconnect", what="it ends soon")
    trouble(paybus, item, "ITEM_LOGIN_REQUIRED")
    until(lambda: health() == "login_required", what="it is broken")
    assert "log in again" in get(paybus, f"items/{item['id']}")["what_to_do"]
    token = paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/link-token", json={})
    assert token.json()["link_token"].startswith("link-")
    trouble(paybus, item, None)
    until(lambda: health() == "healthy", what="it is repaired")
    trouble(paybus, item, "ITEM_LOGIN_REQUIRED", tell=False)  # the webhook is lost
    sweep_now(paybus, item)
    until(lambda: health() == "login_required", what="the sync has found out")
    failed = [
        each["error"]
        for each in get(paybus, "syncs", item=item["id"])["items"]
        if each["status"] == "failed"
    ]
    assert any("ITEM_LOGIN_REQUIRED" in error for error in failed)
    hours = get(paybus, "institutions/ins_109508/health")
    assert hours[0]["failed"] >= 1
    trouble(paybus, item, None, tell=False)
    done = paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/repaired")
    assert done.status_code == 202
    until(lambda: health() == "healthy", what="the user was there")
    bank_says("USER_PERMISSION_REVOKED")
    until(lambda: health() == "revoked", what="the user took it back")
    assert everything(paybus, "transactions", item=item["id"]) == []
    assert everything(paybus, "accounts", item=item["id"]) == []
    again = paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/sync")
    assert again.status_code == 409
    token = paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/link-token")
    assert token.status_code == 201
    done = paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/repaired")
    assert done.status_code == 202
    until_equal(paybus, item)
    assert health() == "healthy"
    assert paybus.dead_letters() == {}


def test_one_account_s_revocation_deletes_that_account(paybus: Paybus) -> None:
    item = link(paybus, transactions=40, accounts=2)
    until_synced(paybus, item)
    gone, kept = everything(paybus, "accounts", item=item["id"])
    url = f"/plaid/_items/{item['item_id']}/webhook?code=USER_ACCOUNT_REVOKED"
    sandbox(paybus, "POST", url, account_id=gone["account_id"])
    until(lambda: len(everything(paybus, "accounts", item=item["id"])) == 1, what="it is gone")
    # The sync that follows may have updated the other account's balance.
    assert [each["id"] for each in everything(paybus, "accounts", item=item["id"])] == [kept["id"]]
    left = {each["account"] for each in everything(paybus, "transactions", item=item["id"])}
    assert left == {kept["id"]}
    assert get(paybus, f"items/{item['id']}")["health"] == "healthy"


def test_an_account_that_is_revoked_while_a_sync_reads_stays_away(paybus: Paybus) -> None:
    item = link(paybus, transactions=10, accounts=2)
    until_synced(paybus, item)
    gone, kept = everything(paybus, "accounts", item=item["id"])
    sync = read_slowly(paybus, item)
    url = f"/plaid/_items/{item['item_id']}/webhook?code=USER_ACCOUNT_REVOKED"
    sandbox(paybus, "POST", url, account_id=gone["account_id"])
    until(lambda: get(paybus, f"syncs/{sync}")["status"] == "cancelled", what="it ends")
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    until_equal(paybus, item)
    assert [each["id"] for each in everything(paybus, "accounts", item=item["id"])] == [kept["id"]]


def test_an_account_that_is_revoked_while_balances_are_asked_for_stays_away(
    paybus: Paybus,
) -> None:
    item = link(paybus, transactions=10, accounts=2)
    until_synced(paybus, item)
    gone, kept = everything(paybus, "accounts", item=item["id"])
    path = f"items/{item['id']}/balances"
    url = paybus.layout.databases["bank-sync"].replace("+psycopg", "")
    waits = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with ThreadPoolExecutor(1) as pool, psycopg.connect(url) as connection:
        connection.execute("SELECT set_config('paybus.every_tenant', 'on', true)")
        connection.execute("SELECT 1 FROM bank_items WHERE id = %s FOR UPDATE", [item["id"]])
        asked = pool.submit(get, paybus, path, max_age_seconds=0)
        until(lambda: paybus.sql("bank-sync", waits)[0][0], what="the bank has answered")
        for table, column in (("transactions", "account"), ("accounts", "id")):
            deletion = f"DELETE FROM {table} WHERE {column} = %s"  # noqa: S608
            connection.execute(deletion, [gone["id"]])
        connection.commit()
        assert [each["id"] for each in asked.result()["accounts"]] == [kept["id"]]


def test_an_item_that_the_provider_forgot_says_so(paybus: Paybus) -> None:
    item = link(paybus)
    until_synced(paybus, item)
    trouble(paybus, item, "ITEM_NOT_FOUND", tell=False)
    assert paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/sync").status_code == 202

    def mine() -> dict[str, Any]:
        found: dict[str, Any] = get(paybus, f"items/{item['id']}")
        return found

    until(lambda: mine()["health"] == "login_required", what="it is broken")
    assert "link the bank again" in mine()["what_to_do"]
    assert everything(paybus, "transactions", item=item["id"]) != []


def test_a_warning_outlives_a_broken_login(paybus: Paybus) -> None:
    item = link(paybus)
    until_synced(paybus, item)

    def health() -> tuple[str, str | None]:
        found = get(paybus, f"items/{item['id']}")
        return found["health"], found["health_until"]

    url = f"/plaid/_items/{item['item_id']}/webhook?code=PENDING_EXPIRATION"
    sandbox(paybus, "POST", url, consent_expiration_time="2026-12-24T00:00:00Z")
    warned = ("pending_expiration", "2026-12-24T00:00:00Z")
    until(lambda: health() == warned, what="it is warned of")
    trouble(paybus, item, "ITEM_LOGIN_REQUIRED")
    until(lambda: health()[0] == "login_required", what="it is broken")
    trouble(paybus, item, None, tell=False)
    sweep_now(paybus, item)
    until(lambda: health() == warned, what="the warning stands again")


def test_one_bank_in_trouble_stops_no_other(paybus: Paybus) -> None:
    broken = [link(paybus) for _ in range(12)]
    well = link(paybus, transactions=5)
    for each in (*broken, well):
        until_synced(paybus, each)
    for each in broken:
        trouble(paybus, each, "INSTITUTION_DOWN", tell=False)
        assert paybus.api("POST", "bank-sync", f"/v1/items/{each['id']}/sync").status_code == 202
    until(
        lambda: (
            paybus.metric("bank-sync-worker", "paybus_messages_consumed_total", outcome="retried")
            > 10
        ),
        what="each has failed",
    )
    assert paybus.metric("bank-sync-worker", "paybus_circuit_breaker_state", state="open") == 0
    happen(paybus, well, add=2)
    until_equal(paybus, well)
    for each in broken:
        trouble(paybus, each, None, tell=False)
    for each in broken:
        until_synced(paybus, each)
    paybus.messages("bank-sync.syncs.dead", remove=True)  # used-up attempts


def test_a_removed_item_leaves_nothing(paybus: Paybus) -> None:
    item = link(paybus)
    until_synced(paybus, item)
    sandbox(paybus, "PUT", "/_behaviour", mode="fail")
    url = f"/v1/items/{item['id']}"
    assert paybus.api("DELETE", "bank-sync", url).status_code == 202
    assert everything(paybus, "transactions", item=item["id"]) == []
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    paybus.api("POST", "bank-sync", "/v1/schedules/removals/run")
    until(lambda: paybus.api("GET", "bank-sync", url).status_code == 404, what="it is gone")
    assert sandbox(paybus, "GET", f"/plaid/_books?item_id={item['item_id']}")["items"] == {}
    types = [each["type"] for each in paybus.tapped() if each["subject"] == item["id"]]
    assert types.count("bank_item.removed") == 1


def test_balances_are_asked_for_when_they_are_old(paybus: Paybus) -> None:
    item = link(paybus, accounts=3)
    until_synced(paybus, item)
    path = f"items/{item['id']}/balances"
    get(paybus, path, max_age_seconds=0)
    happen(paybus, item, add=1, tell=False)
    cached = get(paybus, path, max_age_seconds=3600)
    live = get(paybus, path, max_age_seconds=0)
    assert (cached["fresh"], live["fresh"], len(live["accounts"])) == (True, True, 3)
    books = at_the_bank(paybus, item)["accounts"]
    assert {e["account_id"]: e["current"] for e in live["accounts"]} == {
        id_: current for id_, (current, _) in books.items()
    }
    assert [e["current"] for e in cached["accounts"]] != [e["current"] for e in live["accounts"]]
    sandbox(paybus, "PUT", "/_behaviour", mode="fail")
    last_known = get(paybus, path, max_age_seconds=0)
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    assert (last_known["fresh"], last_known["accounts"]) == (False, live["accounts"])
    happen(paybus, item, add=1)
    until_equal(paybus, item)
    sandbox(paybus, "PUT", "/_behaviour", mode="fail")
    from_a_sync = get(paybus, path, max_age_seconds=3600)
    sandbox(paybus, "PUT", "/_behaviour", mode="well")
    assert not from_a_sync["fresh"], "a sync's figures are not what the bank was asked for"


def test_transactions_are_filtered_paged_exported_and_added_up(paybus: Paybus) -> None:
    item = link(paybus, transactions=300)
    until_equal(paybus, item)
    mine = {"item": item["id"]}
    whole = everything(paybus, "transactions", **mine)
    assert len({each["id"] for each in whole}) == 300
    days = [each["date"] for each in whole]
    assert days == sorted(days, reverse=True)
    food = everything(paybus, "transactions", category="FOOD_AND_DRINK", **mine)
    assert food == [each for each in whole if each["category"] == "FOOD_AND_DRINK"]
    some = everything(paybus, "transactions", first="2026-10-01", last="2026-10-31", **mine)
    assert some == [each for each in whole if each["date"].startswith("2026-10-")]
    dear = everything(paybus, "transactions", at_least=20_000, pending=False, **mine)
    assert dear == [e for e in whole if e["amount"] >= 20_000 and not e["pending"]]
    spent = get(paybus, "spending", **mine)
    for each in spent:
        counted = [
            e["amount"]
            for e in whole
            if e["amount"] > 0
            and not e["pending"]
            and (e["date"][:7], e["category"]) == (each["month"], each["category"])
        ]
        assert (sum(counted), len(counted)) == (each["amount"], each["transactions"])
    url = f"/v1/transactions.csv?first=2026-09-01&last=2026-12-31&item={item['id']}"
    lines = list(csv.DictReader(io.StringIO(paybus.api("GET", "bank-sync", url).text)))
    assert {(e["id"], int(e["amount"])) for e in lines} == {(e["id"], e["amount"]) for e in whole}
    for bad in (
        "transactions?cursor=nonsense",
        "transactions.csv?first=2026-12-31&last=2026-09-01",
        "spending?first=2026-12-31&last=2026-09-01",
    ):
        assert paybus.api("GET", "bank-sync", f"/v1/{bad}").status_code == 400, bad


def test_what_can_t_be_linked_is_told_clearly(paybus: Paybus) -> None:
    def post(path: str, **body: Any) -> tuple[int, str]:
        answer = paybus.api("POST", "bank-sync", f"/v1/{path}", json=body)
        return answer.status_code, answer.json().get("detail", "")

    status, detail = post("items", public_token="public-sandbox-used", user="ama")
    assert (status, "used once" in detail) == (400, True)
    status, detail = post("link-tokens", user="ama", client="nobody")
    assert (status, "BANK_ACCOUNTS_FILE" in detail) == (400, True)
    assert post("link-tokens", user="ama")[0] == 201
    assert post("link-tokens", user="ama", countries=["usa"])[0] == 422
    viewer = paybus.api("POST", "bank-sync", "/v1/link-tokens", role="viewer", json={"user": "x"})
    assert viewer.status_code == 403
    assert paybus.api("GET", "bank-sync", "/v1/items/nothing").status_code == 404


def test_access_tokens_are_sealed_and_never_shown(paybus: Paybus) -> None:
    link(paybus)
    sealed = paybus.sql(
        "bank-sync",
        "SELECT access_token "
        "FROM (SELECT set_config('paybus.every_tenant', 'on', true)) s, bank_items",
    )
    assert sealed
    assert all(not each[0].startswith("access-") for each in sealed)
    for process in PROCESSES[1:]:
        assert "access-sandbox-" not in paybus.log(process)
    assert "access-sandbox-" not in str(paybus.tapped())


def read_slowly(paybus: Paybus, item: dict[str, str]) -> str:
    """Start a sync of several slow pages, and wait until the first has been read."""
    happen(paybus, item, add=2000, tell=False)
    sandbox(paybus, "PUT", "/_behaviour", delay_seconds=0.5)
    sync: str = paybus.api("POST", "bank-sync", f"/v1/items/{item['id']}/sync").json()["id"]
    until(lambda: get(paybus, f"syncs/{sync}")["pages"] >= 1, what="a page is read")
    return sync


def sweep_now(paybus: Paybus, item: dict[str, str]) -> None:
    """Make the item's daily sync due now."""
    url = paybus.layout.databases["bank-sync"].replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute("SELECT set_config('paybus.every_tenant', 'on', true)")
        connection.execute("UPDATE bank_items SET next_sync_at = now() WHERE id = %s", [item["id"]])


def trouble(paybus: Paybus, item: dict[str, str], code: str | None, *, tell: bool = True) -> None:
    sandbox(paybus, "PUT", f"/plaid/_items/{item['item_id']}/trouble", code=code, tell=tell)

"""Operators' actions on payouts: each refusal has a clear reason and moves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from conftest import MakePaybus
from support.paybus import Paybus
from support.payouts import (
    OPTIONS,
    PROCESSES,
    QUICK,
    a_recipient,
    act,
    add,
    balances,
    behave,
    deliver,
    details,
    earned,
    look_now,
    order,
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
        yield paybus


@pytest.fixture(scope="module")
def seller(paybus: Paybus) -> dict[str, Any]:
    return add(paybus, "stripe")


@pytest.fixture(autouse=True)
def everything_well(paybus: Paybus) -> None:
    well(paybus)


def is_problem(answer: httpx.Response, status: int, says: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]


def jobs(paybus: Paybus) -> int:
    count: int = paybus.sql("payouts", "SELECT count(*) FROM payouts")[0][0]
    return count


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"amount": 0}, 422, "greater than 0"),
        ({"amount": -5}, 422, "greater than 0"),
        ({"amount": 10.5}, 422, "valid integer"),
        ({"amount": 10.0}, 422, "valid integer"),
        ({"amount": "10"}, 422, "valid integer"),
        ({"amount": True}, 422, "valid integer"),
        ({"amount": 2**53}, 422, "less than or equal"),
        ({"amount": 1_000_001}, 400, "at most 1000000 USD"),
        ({"fee": -1}, 422, "greater than or equal"),
        ({"currency": "EUR"}, 400, "is paid in USD, not in EUR"),
        ({"currency": "usd"}, 422, "pattern"),
        ({"recipient": "nobody"}, 404, "there is no recipient nobody"),
        ({"colour": "red"}, 422, "Extra inputs"),
        ({"funding": "balance"}, 409, "0 USD are available"),
    ],
)
def test_what_can_t_be_paid_is_refused_and_nothing_moves(
    paybus: Paybus, seller: dict[str, Any], changes: dict[str, Any], status: int, says: str
) -> None:
    before, books = jobs(paybus), balances(paybus, seller)
    is_problem(post(paybus, "payouts", request_for(seller) | changes), status, says)
    assert (jobs(paybus), balances(paybus, seller)) == (before, books)


def test_the_same_key_orders_once_and_another_body_is_a_conflict(
    paybus: Paybus, seller: dict[str, Any]
) -> None:
    key = uuid4().hex
    body = request_for(seller, 777)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(paybus, "payouts", body, key=key), range(8)))
    assert {each.status_code for each in answers} == {201}
    (id_,) = {each.json()["id"] for each in answers}
    is_problem(
        post(paybus, "payouts", body | {"amount": 778}, key=key), 409, "used for another payout"
    )
    until_state(paybus, {"id": id_}, "paid")
    assert [each["amount"] for each in transfers(paybus, {"id": id_})] == [777]


def test_a_caller_can_t_take_the_name_of_what_a_schedule_pays(
    paybus: Paybus, seller: dict[str, Any]
) -> None:
    """Otherwise the schedule would treat it as its own payout."""
    key = f"schedule:{seller['id']}:1"
    answer = post(paybus, "payouts", request_for(seller), key=key)
    is_problem(answer, 400, "must not begin with schedule:")


def test_a_backup_of_long_ago_is_refused(paybus: Paybus) -> None:
    """It would cover thousands of days, and block the emergency stop while they are written."""
    wanted = {"days": 30, "since": "1970-01-01T00:00:00Z", "reason": "restored"}
    url = "/v1/control/require-status-check"
    is_problem(paybus.api("POST", "payouts", url, json=wanted, role="admin"), 400, "90 days ago")


def test_large_amounts_need_a_second_person(paybus: Paybus, seller: dict[str, Any]) -> None:
    payout = order(paybus, seller, 100_001)
    assert payout["state"] == "scheduled"
    id_ = payout["id"]
    is_problem(act(paybus, "approve", id_), 403, "needs the role `approver`")
    creator = {"role": "approver", "subject": payout["created_by"]}
    is_problem(act(paybus, "approve", id_, **creator), 403, "another person must")
    is_problem(act(paybus, "retry", id_), 409, "scheduled can't retry")
    assert transfers(paybus, payout) == []
    approved = act(paybus, "approve", id_, role="approver", subject="boss")
    assert (approved.status_code, approved.json()["approved_by"]) == (200, "boss")
    until_state(paybus, payout, "paid")
    is_problem(act(paybus, "approve", id_, role="approver"), 409, "can't approve")
    assert order(paybus, seller, 100_000)["state"] == "approved"


def test_the_creator_may_not_approve_by_another_role(
    paybus: Paybus, seller: dict[str, Any]
) -> None:
    answer = post(paybus, "payouts", request_for(seller, 500_000), role="admin", subject="root")
    id_ = answer.json()["id"]
    is_problem(
        act(paybus, "approve", id_, role="admin", subject="root"), 403, "another person must"
    )


def test_who_credits_does_not_approve_what_that_pays(paybus: Paybus) -> None:
    """Two persons are needed over the complete chain: a schedule is not a person."""
    seller = add(paybus, "stripe", schedule={"kind": "threshold", "minimum": 150_000})
    body = {"amount": 90_000, "currency": "USD", "reason": "sales"}
    for subject in ("ama", "kofi"):
        path = f"recipients/{seller['id']}/credits"
        answer = post(paybus, path, body, subject=subject, role="approver")
        assert answer.status_code == 201, answer.text
    url = f"/v1/payouts?recipient_id={seller['id']}"
    paybus.api("POST", "payouts", "/v1/schedules/pay-balances/run")
    until(lambda: paybus.api("GET", "payouts", url).json()["items"], what="it is ordered")
    (payout,) = paybus.api("GET", "payouts", url).json()["items"]
    assert (payout["state"], payout["created_by"]) == ("scheduled", "paybus")
    assert payout["credited_by"] == ["ama", "kofi"]
    for subject in ("ama", "kofi"):
        answer = act(paybus, "approve", payout["id"], role="approver", subject=subject)
        is_problem(answer, 403, "who credited the money of a payout")
    assert act(paybus, "approve", payout["id"], role="approver", subject="boss").status_code == 200
    until_state(paybus, payout, "paid")
    # The returned amount was credited by the same persons.
    (made,) = transfers(paybus, payout)
    sandbox(paybus, "PUT", f"/_payouts/transfers/{made['id']}", status="returned")
    until_state(paybus, payout, "returned")
    paybus.api("POST", "payouts", "/v1/schedules/pay-balances/run")
    until(lambda: len(paybus.api("GET", "payouts", url).json()["items"]) == 2, what="owed again")
    again = paybus.api("GET", "payouts", url).json()["items"][0]
    assert again["credited_by"] == ["ama", "kofi"]


def test_who_credits_and_has_another_order_does_not_approve_either(paybus: Paybus) -> None:
    seller = add(paybus, "stripe")
    body = {"amount": 120_000, "currency": "USD", "reason": "sales"}
    path = f"recipients/{seller['id']}/credits"
    assert post(paybus, path, body, subject="ama", role="approver").status_code == 201
    payout = order(paybus, seller, 120_000, funding="balance")
    answer = act(paybus, "approve", payout["id"], role="approver", subject="ama")
    is_problem(answer, 403, "who credited the money of a payout")
    assert act(paybus, "cancel", payout["id"]).status_code == 200


def test_who_changes_where_it_goes_does_not_approve_it(paybus: Paybus) -> None:
    seller = add(paybus, "stripe")
    payout = order(paybus, seller, 500_000)
    url = f"/v1/recipients/{seller['id']}"
    mine = {"details": details("stripe"), "reason": "a new account"}
    thief = {"role": "approver", "subject": "thief"}
    assert paybus.api("PATCH", "payouts", url, json=mine, **thief).status_code == 200
    answer = act(paybus, "approve", payout["id"], **thief)
    is_problem(answer, 403, "the person who changed a payout")
    assert act(paybus, "approve", payout["id"], role="approver", subject="boss").status_code == 200
    until_state(paybus, payout, "paid")


def test_an_approval_waits_for_a_change_of_where_it_goes(paybus: Paybus) -> None:
    """Otherwise one person who does both at the same time could decide alone."""
    seller = add(paybus, "stripe")
    payout = order(paybus, seller, 500_000)
    url = paybus.layout.databases["payouts"].replace("+psycopg", "")
    with psycopg.connect(url) as changing, ThreadPoolExecutor(1) as pool:
        changing.execute("SELECT 1 FROM recipients WHERE id = %s FOR UPDATE", [seller["id"]])
        thief = {"role": "approver", "subject": "thief"}
        approval = pool.submit(act, paybus, "approve", payout["id"], **thief)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        waits += "AND datname = current_database()"
        until(lambda: paybus.sql("payouts", waits) == [(1,)], what="it waits")
        changing.execute(
            "UPDATE recipients SET details_changed_at = clock_timestamp(), "
            "details_changed_by = 'thief' WHERE id = %s",
            [seller["id"]],
        )
        changing.commit()
        is_problem(approval.result(), 403, "the person who changed a payout")


def test_what_came_back_is_paid_with_other_money_by_two_persons(paybus: Paybus) -> None:
    """The approval was for the original money; the retrying operator is one of the two."""
    seller = add(paybus, "stripe")
    payout = order(paybus, seller, 150_000)
    boss = {"role": "approver", "subject": "boss"}
    act(paybus, "approve", payout["id"], **boss).raise_for_status()
    until_state(paybus, payout, "paid")
    (made,) = transfers(paybus, payout)
    sandbox(paybus, "PUT", f"/_payouts/transfers/{made['id']}", status="returned")
    until_state(paybus, payout, "returned")
    for _ in range(2):
        until_state(paybus, order(paybus, seller, 75_000, funding="balance"), "paid")
    body = {"amount": 150_000, "currency": "USD", "reason": "sales"}
    path = f"recipients/{seller['id']}/credits"
    assert post(paybus, path, body, subject="ama", role="approver").status_code == 201
    again = act(paybus, "retry", payout["id"], role="operator", subject="kofi").json()
    assert (again["state"], again["approved_by"]) == ("scheduled", None)
    for subject in ("ama", "kofi"):
        answer = act(paybus, "approve", payout["id"], role="approver", subject=subject)
        is_problem(answer, 403, "another person must")
    act(paybus, "approve", payout["id"], **boss).raise_for_status()
    until_state(paybus, payout, "paid")


def came_back(paybus: Paybus, seller: dict[str, Any], amount: int) -> dict[str, Any]:
    payout = order(paybus, seller, amount)
    boss = {"role": "approver", "subject": "boss"}
    act(paybus, "approve", payout["id"], **boss).raise_for_status()
    until_state(paybus, payout, "paid")
    (made,) = transfers(paybus, payout)
    sandbox(paybus, "PUT", f"/_payouts/transfers/{made['id']}", status="returned")
    until_state(paybus, payout, "returned")
    return payout


def credited(paybus: Paybus, seller: dict[str, Any], amount: int, by: str) -> None:
    body = {"amount": amount, "currency": "USD", "reason": "sales"}
    path = f"recipients/{seller['id']}/credits"
    assert post(paybus, path, body, subject=by, role="approver").status_code == 201


def ordered_for(paybus: Paybus, seller: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the newest payout after the schedule has enqueued `count` payouts."""
    url = f"/v1/payouts?recipient_id={seller['id']}"
    paybus.api("POST", "payouts", "/v1/schedules/pay-balances/run")
    until(
        lambda: len(paybus.api("GET", "payouts", url).json()["items"]) == count,
        what="it is ordered",
    )
    newest: dict[str, Any] = paybus.api("GET", "payouts", url).json()["items"][0]
    return newest


def test_who_gives_up_the_retry_of_what_came_back_takes_nothing_from_the_recipient(
    paybus: Paybus,
) -> None:
    seller = add(paybus, "stripe")
    payout = came_back(paybus, seller, 150_000)
    assert act(paybus, "retry", payout["id"]).json()["state"] == "scheduled"
    assert act(paybus, "cancel", payout["id"]).json()["state"] == "cancelled"
    assert balances(paybus, seller)["available"] == 150_000, "the second person said no"
    other = add(paybus, "stripe")
    payout = came_back(paybus, other, 150_000)
    for _ in range(2):
        until_state(paybus, order(paybus, other, 75_000, funding="balance"), "paid")
    credited(paybus, other, 150_000, "ama")
    assert act(paybus, "retry", payout["id"]).json()["state"] == "scheduled"
    assert act(paybus, "cancel", payout["id"]).json()["state"] == "cancelled"
    assert balances(paybus, other)["available"] == 150_000, "what she earned since"


@pytest.mark.parametrize("credit_first", [True, False])
def test_a_sale_that_is_taken_back_does_not_hide_who_credited_the_rest(
    paybus: Paybus, credit_first: bool
) -> None:
    seller = add(paybus, "stripe", schedule={"kind": "threshold", "minimum": 400_000})
    if credit_first:
        credited(paybus, seller, 150_000, "eve")
    hear(paybus, seller, "earnings.credit", 300_000 if credit_first else 150_000)
    if not credit_first:
        credited(paybus, seller, 150_000, "eve")
    hear(paybus, seller, "earnings.reverse", 150_000)
    payout = order(paybus, seller, 150_000, funding="balance")
    answer = act(paybus, "approve", payout["id"], role="approver", subject="eve")
    is_problem(answer, 403, "who credited the money of a payout")


def test_a_credit_that_filled_a_debt_is_not_hidden_by_the_next_sale(paybus: Paybus) -> None:
    seller = add(paybus, "stripe", schedule={"kind": "threshold", "minimum": 100_000})
    hear(paybus, seller, "earnings.credit", 150_000)
    first = ordered_for(paybus, seller, 1)
    act(paybus, "approve", first["id"], role="approver", subject="boss").raise_for_status()
    until_state(paybus, first, "paid")
    hear(paybus, seller, "earnings.reverse", -150_000)
    credited(paybus, seller, 150_000, "eve")
    hear(paybus, seller, "earnings.credit", 150_000)
    payout = ordered_for(paybus, seller, 2)
    answer = act(paybus, "approve", payout["id"], role="approver", subject="eve")
    is_problem(answer, 403, "who credited the money of a payout")


def hear(paybus: Paybus, seller: dict[str, Any], type_: str, there: int) -> None:
    """Process an event of 150,000; `there` is the available amount afterwards."""
    event = earned(seller, 150_000, type_=type_)
    paybus.publish_to("payouts", event.type, event.encode().decode())
    until(partial(has_available, paybus, seller, there), what="it is booked")


def has_available(paybus: Paybus, seller: dict[str, Any], amount: int) -> bool:
    return balances(paybus, seller).get("available") == amount


def test_small_payouts_that_are_cancelled_do_not_hide_who_credited_them(paybus: Paybus) -> None:
    seller = add(paybus, "stripe", schedule={"kind": "threshold", "minimum": 200_000})
    why, jobs = {"reason": "a test"}, "/v1/control"
    assert paybus.api("POST", "payouts", f"{jobs}/pause", json=why).is_success
    small = []
    for _ in range(2):
        credited(paybus, seller, 100_000, "eve")
        small.append(order(paybus, seller, 100_000, funding="balance"))
    for each in small:
        assert act(paybus, "cancel", each["id"]).is_success
    assert paybus.api("POST", "payouts", f"{jobs}/resume", json=why, role="approver").is_success
    large = ordered_for(paybus, seller, 3)
    assert (large["state"], large["amount"]) == ("scheduled", 200_000)
    answer = act(paybus, "approve", large["id"], role="approver", subject="eve")
    is_problem(answer, 403, "who credited the money of a payout")


def test_a_fee_that_is_the_recipient_s_counts_for_the_second_person(paybus: Paybus) -> None:
    seller = add(paybus, "stripe")
    credited(paybus, seller, 900_000, "ama")
    assert order(paybus, seller, 1, funding="balance", fee=899_999)["state"] == "scheduled"


def test_nobody_acts_under_the_name_of_paybus(paybus: Paybus) -> None:
    seller = add(paybus, "stripe")
    body = {"amount": 1000, "currency": "USD", "reason": "sales"}
    path = f"recipients/{seller['id']}/credits"
    answer = post(paybus, path, body, subject="paybus", role="approver")
    is_problem(answer, 403, "reserved for the system")


def test_who_said_where_it_goes_does_not_approve_what_nobody_ordered(paybus: Paybus) -> None:
    """An order's event requests it, so the person who changed the details would decide alone."""
    seller = add(paybus, "stripe")
    eve = {"role": "approver", "subject": "eve"}
    url = f"/v1/recipients/{seller['id']}"
    hers = {"details": details("stripe"), "reason": "a new account"}
    assert paybus.api("PATCH", "payouts", url, json=hers, **eve).status_code == 200
    event = earned(seller, 150_000)
    paybus.publish_to("payouts", event.type, event.encode().decode())
    jobs = f"/v1/payouts?recipient_id={seller['id']}"
    (payout,) = until(
        lambda: paybus.api("GET", "payouts", jobs).json()["items"], what="it is ordered"
    )
    is_problem(act(paybus, "approve", payout["id"], **eve), 403, "another person must")
    assert act(paybus, "cancel", payout["id"]).is_success


def test_an_approval_is_void_when_somebody_changes_where_it_goes(paybus: Paybus) -> None:
    seller = add(paybus, "stripe")
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    payout = order(paybus, seller, 500_000, due_at=later)
    assert act(paybus, "approve", payout["id"], role="approver", subject="boss").status_code == 200
    url = f"/v1/recipients/{seller['id']}"
    mine = {"details": details("stripe"), "reason": "a new account"}
    assert paybus.api("PATCH", "payouts", url, json=mine, role="approver").status_code == 200
    now = "UPDATE payouts SET due_at = now(), next_action_at = now() WHERE id = %s"
    paybus.sql("payouts", now, payout["id"])
    waits = until_state(paybus, payout, "scheduled")
    assert (waits["approved_by"], waits["attempts"]) == (None, [])
    assert act(paybus, "approve", payout["id"], role="approver", subject="boss").status_code == 200
    until_state(paybus, payout, "paid")


def test_the_emergency_stop_answers_when_nothing_can_begin_any_more(paybus: Paybus) -> None:
    """A worker that has committed its intent may act on it for five seconds."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    payout = order(paybus, add(paybus, "stripe"), due_at=later)
    paybus.sql(
        "payouts",
        "UPDATE payouts SET state = 'submitting', attempts = 1, next_action_at = NULL "
        "WHERE id = %s",
        payout["id"],
    )
    paybus.sql(
        "payouts",
        "INSERT INTO attempts (payout_id, number, idempotency_key, started_at, deadline, details) "
        "SELECT id, 1, 'k', now(), now(), '' FROM payouts WHERE id = %s",
        payout["id"],
    )
    url = "/v1/control"
    why = {"reason": "fraud"}
    try:
        assert paybus.api("POST", "payouts", f"{url}/pause", json=why).status_code == 200
        query = "SELECT extract(epoch FROM now() - started_at) FROM attempts WHERE payout_id = %s"
        assert paybus.sql("payouts", query, payout["id"])[0][0] > 5
    finally:
        paybus.sql("payouts", "UPDATE payouts SET state = 'cancelled' WHERE id = %s", payout["id"])
        resumed = paybus.api("POST", "payouts", f"{url}/resume", json=why, role="approver")
        assert resumed.status_code == 200


def test_held_released_and_cancelled(paybus: Paybus, seller: dict[str, Any]) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    payout = order(paybus, seller, due_at=later)
    id_ = payout["id"]
    assert act(paybus, "hold", id_).json()["held"]
    assert act(paybus, "hold", id_).status_code == 200  # repeating it has no effect
    paybus.sql("payouts", "UPDATE payouts SET due_at = now() WHERE id = %s", id_)
    other = order(paybus, seller)
    until_state(paybus, other, "paid")
    assert read(paybus, id_)["attempts"] == []
    assert not act(paybus, "release", id_).json()["held"]
    until_state(paybus, payout, "paid")
    is_problem(act(paybus, "release", id_), 409, "not held")
    is_problem(act(paybus, "hold", id_), 409, "can't be held any more")
    is_problem(act(paybus, "cancel", id_), 409, "it is paid")
    is_problem(act(paybus, "retry", id_), 409, "would pay twice")
    assert len(transfers(paybus, payout)) == 1
    cancelled = order(paybus, seller, due_at=later)
    assert act(paybus, "cancel", cancelled["id"]).json()["state"] == "cancelled"
    is_problem(act(paybus, "retry", cancelled["id"]), 409, "cancelled can't retry")


def test_a_cancelled_payout_gives_the_money_back(paybus: Paybus) -> None:
    seller = add(paybus, "dwolla")
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    credit(paybus, seller, 9000)
    payout = order(paybus, seller, 4000, funding="balance", due_at=later)
    assert (balances(paybus, seller)["available"], balances(paybus, seller)["pending"]) == (
        5000,
        4000,
    )
    act(paybus, "cancel", payout["id"])
    assert (balances(paybus, seller)["available"], balances(paybus, seller)["pending"]) == (9000, 0)


def credit(paybus: Paybus, seller: dict[str, Any], amount: int, key: str | None = None) -> Any:
    body = {"amount": amount, "currency": seller["currency"], "reason": "sales"}
    answer = post(paybus, f"recipients/{seller['id']}/credits", body, key=key)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_credit_is_credited_once(paybus: Paybus) -> None:
    seller = add(paybus, "stripe")
    key = uuid4().hex
    assert credit(paybus, seller, 1000, key)["available"] == 1000
    assert credit(paybus, seller, 1000, key)["available"] == 1000
    path = f"recipients/{seller['id']}/credits"
    body = {"amount": 2000, "currency": "USD", "reason": "sales"}
    is_problem(post(paybus, path, body, key=key), 409, "another credit")
    is_problem(post(paybus, path, body | {"currency": "EUR"}), 400, "is paid in USD")


@pytest.mark.parametrize(
    ("schedule", "available", "paid"),
    [
        ({"kind": "daily", "hour": 6, "zone": "Africa/Douala"}, 7000, 7000),
        ({"kind": "weekly", "weekday": 5, "zone": "Europe/Paris"}, 7000, 7000),
        ({"kind": "daily", "minimum": 8000}, 7000, None),
        ({"kind": "threshold", "minimum": 7000}, 7000, 7000),
        ({"kind": "threshold", "minimum": 7001}, 7000, None),
        ({"kind": "manual"}, 7000, None),
    ],
)
def test_schedules_pay_what_is_available(
    paybus: Paybus, schedule: dict[str, Any], available: int, paid: int | None
) -> None:
    seller = add(paybus, "stripe", schedule=schedule)
    timed = schedule["kind"] in {"daily", "weekly"}
    assert (seller["next_payout_at"] is not None) == timed
    credit(paybus, seller, available)
    if timed:
        time_comes = "UPDATE recipients SET next_payout_at = now() WHERE id = %s"
        paybus.sql("payouts", time_comes, seller["id"])
    paybus.api("POST", "payouts", "/v1/schedules/pay-balances/run")
    if paid is None:
        other = add(paybus, "stripe", schedule={"kind": "threshold", "minimum": 1})
        credit(paybus, other, 10)
        paybus.api("POST", "payouts", "/v1/schedules/pay-balances/run")
        until(lambda: balances(paybus, other).get("paid") == 10, what="the other one is paid")
        assert balances(paybus, seller)["available"] == available
        return
    until(lambda: balances(paybus, seller)["paid"] == paid, what="it is paid out")
    assert balances(paybus, seller)["available"] == available - paid


def test_a_schedule_that_can_t_pay_is_not_tried_again_at_once(paybus: Paybus) -> None:
    seller = add(paybus, "fapshi", schedule={"kind": "threshold", "minimum": 1})
    credit(paybus, seller, 50)  # less than Fapshi's minimum
    paybus.api("POST", "payouts", "/v1/schedules/pay-balances/run")
    until(
        lambda: paybus.api("GET", "payouts", f"/v1/recipients/{seller['id']}").json()[
            "next_payout_at"
        ],
        what="it is put off",
    )
    assert balances(paybus, seller)["available"] == 50


def test_the_emergency_stop_stops_all_submitting(paybus: Paybus, seller: dict[str, Any]) -> None:
    def say(verb: str, **more: Any) -> httpx.Response:
        url = f"/v1/control/{verb}"
        return paybus.api("POST", "payouts", url, json={"reason": "fraud"}, **more)

    deliver(paybus, drop=1)
    open_ = order(paybus, add(paybus, "dwolla"))
    until_state(paybus, open_, "submitted")
    assert say("pause").json()["paused"]
    payouts = [order(paybus, seller) for _ in range(3)]
    try:
        status = paybus.api("GET", "payouts", "/v1/control").json()
        assert (status["control"]["paused"], status["control"]["reason"]) == (True, "fraud")
        done = "SELECT last_run_at FROM schedules WHERE name = 'due-payouts'"
        before = paybus.sql("payouts", done)[0][0]
        until(lambda: paybus.sql("payouts", done)[0][0] != before, what="the clock has struck")
        assert all(read(paybus, each["id"])["attempts"] == [] for each in payouts)
        # Status checks of sent payouts continue.
        deliver(paybus)
        look_now(paybus, open_)
        until_state(paybus, open_, "paid")
        is_problem(say("resume"), 403, "approver")
    finally:
        assert say("resume", role="approver").status_code == 200
    for each in payouts:
        until_state(paybus, each, "paid")


def test_blocked_recipients_are_not_paid(paybus: Paybus) -> None:
    seller = add(paybus, "stripe")
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    payout = order(paybus, seller, due_at=later)
    url = f"/v1/recipients/{seller['id']}"
    block = {"blocked": True, "reason": "fraud"}
    is_problem(paybus.api("PATCH", "payouts", url, json=block), 403, "approver")
    assert paybus.api("PATCH", "payouts", url, json=block, role="approver").json()["blocked"]
    is_problem(post(paybus, "payouts", request_for(seller)), 400, "is blocked")
    now = "UPDATE payouts SET due_at = now(), next_action_at = now() WHERE id = %s"
    paybus.sql("payouts", now, payout["id"])
    until(
        lambda: paybus.sql(
            "payouts", "SELECT next_action_at > now() FROM payouts WHERE id = %s", payout["id"]
        )[0][0],
        what="it was looked at",
    )
    assert read(paybus, payout["id"])["attempts"] == []


def test_details_are_sealed_and_shown_nowhere(paybus: Paybus) -> None:
    phone = "6" + f"{uuid4().int % 10**8:08}"
    seller = add(paybus, "fapshi", details={"phone": phone})
    payout = order(paybus, seller)
    until_state(paybus, payout, "paid")
    assert seller["masked_details"] == f"phone …{phone[-4:]}"
    kept = paybus.sql("payouts", "SELECT details FROM recipients WHERE id = %s", seller["id"])
    assert phone not in str(kept)
    everything = [
        paybus.api("GET", "payouts", f"/v1/recipients/{seller['id']}").text,
        paybus.api("GET", "payouts", f"/v1/payouts/{payout['id']}").text,
        *(paybus.log(name) for name in ("payouts-api", "payouts-worker")),
        str(paybus.sql("payouts", "SELECT data, reason FROM audit_log")),
        str([each for each in paybus.journal() if each["type"].startswith("payout")]),
    ]
    assert not [text for text in everything if phone in text]
    strange = a_recipient("fapshi", details={"phone": "+237 " + phone})
    answer = paybus.api("POST", "payouts", "/v1/recipients", role="approver", json=strange)
    is_problem(answer, 400, "details: phone")
    assert phone not in answer.text


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"account": "none"}, 400, "has no account stripe/none"),
        ({"provider": "paypal"}, 422, "provider"),
        ({"currency": "XAF"}, 400, "makes no payouts in XAF"),
        ({"details": {"account": "iban"}}, 400, "details: account"),
        ({"details": {"account": "acct_1", "iban": "DE02"}}, 400, "details: iban"),
        ({"schedule": {"kind": "daily", "zone": "Mars"}}, 422, "time zone"),
    ],
)
def test_what_can_t_be_a_recipient_is_refused(
    paybus: Paybus, changes: dict[str, Any], status: int, says: str
) -> None:
    wanted = a_recipient("stripe") | changes
    answer = paybus.api("POST", "payouts", "/v1/recipients", role="approver", json=wanted)
    is_problem(answer, status, says)


def test_a_recipient_is_added_once_and_another_is_a_conflict(paybus: Paybus) -> None:
    wanted = a_recipient("stripe")
    first, again = (
        paybus.api("POST", "payouts", "/v1/recipients", role="approver", json=wanted)
        for _ in range(2)
    )
    assert first.json()["id"] == again.json()["id"]
    other = wanted | {"details": details("stripe")}
    answer = paybus.api("POST", "payouts", "/v1/recipients", role="approver", json=other)
    is_problem(answer, 409, "differs")


def test_a_batch_is_ordered_whole_or_not_at_all(paybus: Paybus, seller: dict[str, Any]) -> None:
    items = [request_for(seller, amount) for amount in (100, 200, 300)]
    before = jobs(paybus)
    bad = {"name": "friday", "payouts": [*items, request_for(seller) | {"recipient": "nobody"}]}
    is_problem(post(paybus, "batches", bad), 404, "nobody")
    assert jobs(paybus) == before
    key = uuid4().hex
    good = {"name": "friday", "payouts": items}
    first, again = (post(paybus, "batches", good, key=key) for _ in range(2))
    assert (first.status_code, first.json()) == (201, again.json())
    url = f"/v1/batches/{first.json()['id']}"
    until(
        lambda: paybus.api("GET", "payouts", url).json()["states"] == {"paid": 3},
        what="all are paid",
    )
    other = good | {"payouts": items[:2]}
    is_problem(post(paybus, "batches", other, key=key), 409, "another batch")


@pytest.mark.parametrize(
    ("role", "method", "path"),
    [
        ("viewer", "POST", "payouts"),
        ("viewer", "POST", "control/pause"),
        ("viewer", "POST", "payouts/x/retry"),
        ("operator", "POST", "recipients"),
        ("operator", "POST", "payouts/x/approve"),
        ("operator", "POST", "control/resume"),
    ],
)
def test_roles_are_enforced(paybus: Paybus, role: str, method: str, path: str) -> None:
    bodies = {
        "payouts": request_for({"reference": "x", "currency": "USD"}),
        "recipients": a_recipient("stripe"),
    }
    answer = paybus.api(
        method,
        "payouts",
        f"/v1/{path}",
        role=role,
        json=bodies.get(path, {"reason": "because"}),
        extra_headers={"Idempotency-Key": "k"},
    )
    is_problem(answer, 403, "this needs the role")


def test_another_tenant_sees_and_does_nothing(paybus: Paybus, seller: dict[str, Any]) -> None:
    payout = order(paybus, seller)
    until_state(paybus, payout, "paid")
    other = {"tenant": "other", "role": "admin"}
    for path in (f"payouts/{payout['id']}", f"recipients/{seller['id']}"):
        answer = paybus.api("GET", "payouts", f"/v1/{path}", **other)
        assert answer.status_code == 404
    for verb in ("hold", "release", "cancel", "retry", "approve"):
        is_problem(act(paybus, verb, payout["id"], **other), 404, "no payout")
    listed = paybus.api("GET", "payouts", "/v1/payouts", **other).json()
    assert listed["items"] == []
    is_problem(post(paybus, "payouts", request_for(seller), **other), 404, "no recipient")
    status = paybus.api("GET", "payouts", "/v1/control", **other).json()
    assert (status["states"], status["accounts"]) == ({}, [])


def test_a_cancelled_job_does_not_begin(paybus: Paybus) -> None:
    """Only the run requested before the cancellation is cancelled: a later tick runs."""
    assert paybus.api("POST", "payouts", "/v1/schedules/retry-failed/pause").status_code == 200
    worker = paybus.system.processes.pop("payouts-worker")
    worker.stop()
    paybus.api("POST", "payouts", "/v1/schedules/retry-failed/run")
    cancelled = paybus.api("POST", "payouts", "/v1/schedules/retry-failed/cancel").json()
    assert cancelled["cancelled_at"] is not None
    paybus.start("payouts-worker")

    def outcome() -> Any:
        listed = paybus.api("GET", "payouts", "/v1/schedules").json()
        return next(each["last_outcome"] for each in listed if each["name"] == "retry-failed")

    until(lambda: outcome() == "cancelled", what="it was cancelled")
    paybus.api("POST", "payouts", "/v1/schedules/retry-failed/run")
    until(lambda: outcome() == "succeeded", what="a later run runs")


def test_priorities_do_not_wait_for_each_other(paybus: Paybus, seller: dict[str, Any]) -> None:
    """While calls that hang occupy all slots of low priority, a critical payout is paid."""
    behave(paybus, lost=1)
    low = [order(paybus, seller, priority="low") for _ in range(8)]
    until(
        lambda: any(read(paybus, e["id"])["attempts"] for e in low), what="low ones are under way"
    )
    behave(paybus)
    urgent = order(paybus, seller, priority="critical")
    until_state(paybus, urgent, "paid")
    for each in low:
        until_state(paybus, each, "paid")
        assert len(transfers(paybus, each)) == 1

"""A Dwolla transfer from a bank consists of several: from our bank to our balance, and from there
to the recipient, all with the correlation id that we sent. Only the one that reaches the recipient
is the payout.

https://developers.dwolla.com/docs/transfer-lifecycle
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

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
    discrepancies,
    fates,
    look_now,
    order,
    paid,
    read,
    reconcile,
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


@pytest.fixture(autouse=True)
def everything_well(paybus: Paybus) -> None:
    well(paybus)


def until_funded(paybus: Paybus, payout: dict[str, Any]) -> None:
    """Wait until our bank has paid the leg to our balance."""

    def legs() -> list[str]:
        found = sandbox(paybus, "GET", "/_payouts")["legs"]
        return [each["status"] for each in found if each["reference"] == payout["id"]]

    until(lambda: "paid" in legs(), what="the leg is processed")


def test_a_refused_payout_whose_answer_was_lost_is_not_called_paid(paybus: Paybus) -> None:
    """The leg is paid and has the payout's reference, but the recipient has received nothing."""
    behave(paybus, lost=1)
    deliver(paybus, drop=1)
    fates(paybus, fail=1)
    seller = add(paybus, "dwolla")
    payout = order(paybus, seller)
    until(lambda: [e["status"] for e in transfers(paybus, payout)] == ["failed"], what="refused")
    until_funded(paybus, payout)
    well(paybus)
    look_now(paybus, payout)
    until(lambda: read(paybus, payout["id"])["state"] in {"paid", "failed"}, what="looked up")
    assert read(paybus, payout["id"])["state"] == "failed"
    assert (balances(paybus, seller)["paid"], paid(paybus, payout)) == (0, 0)


def test_a_refused_payout_can_be_paid_when_it_is_tried_again(paybus: Paybus) -> None:
    fates(paybus, fail=1)
    seller = add(paybus, "dwolla")
    payout = order(paybus, seller)
    until_state(paybus, payout, "failed")
    until_funded(paybus, payout)
    fates(paybus)
    doubled = paybus.metric("payouts-worker", "paybus_payout_duplicate_transfers_total")
    assert act(paybus, "retry", payout["id"]).status_code == 200
    until_state(paybus, payout, "paid")
    assert paid(paybus, payout) == payout["amount"]
    assert discrepancies(paybus, payout) == []
    assert paybus.metric("payouts-worker", "paybus_payout_duplicate_transfers_total") == doubled


def test_promise_8_a_refusal_whose_webhook_was_lost_is_learned_by_asking(paybus: Paybus) -> None:
    deliver(paybus, drop=1)
    fates(paybus, fail=1)
    payout = order(paybus, add(paybus, "dwolla"))
    until_state(paybus, payout, "submitted")
    until(lambda: [e["status"] for e in transfers(paybus, payout)] == ["failed"], what="refused")
    until_funded(paybus, payout)
    deliver(paybus)
    look_now(paybus, payout)
    until_state(paybus, payout, "failed")


def test_a_transfer_to_somebody_else_under_our_reference_is_a_difference(paybus: Paybus) -> None:
    """It moved money, so nothing more is sent; the wrong destination is left to an operator."""
    deliver(paybus, drop=1)
    behave(paybus, lost=1)
    payout = order(paybus, add(paybus, "dwolla"))
    until(lambda: transfers(paybus, payout), what="it is made")
    (made,) = transfers(paybus, payout)
    sandbox(paybus, "PUT", f"/_payouts/transfers/{made['id']}", destination="somebody-else")
    well(paybus)
    look_now(paybus, payout)
    until(lambda: "destination" in discrepancies(paybus, payout), what="it is seen")
    assert len(transfers(paybus, payout)) == 1
    (found,) = [
        each
        for each in paybus.api("GET", "payouts", "/v1/reports/discrepancies").json()["items"]
        if each["payout_id"] == payout["id"]
    ]
    assert found["theirs"] == "…else"


def test_the_reconciliation_lists_what_left_the_account_and_nothing_else(paybus: Paybus) -> None:
    """The list excludes legs and incoming transfers."""
    until_state(paybus, order(paybus, add(paybus, "dwolla")), "paid")
    sandbox(paybus, "POST", "/_payouts/foreign", provider="dwolla", amount=450, incoming=True)
    sandbox(paybus, "POST", "/_payouts/foreign", provider="dwolla", amount=451)
    found = reconcile(paybus, datetime.now(UTC).date())
    strange = [each["theirs"] for each in found if each["kind"] == "unknown_transfer"]
    assert [each.split(" ")[0] for each in strange] == ["451"]
    assert {each["kind"] for each in found} == {"unknown_transfer", "destination"}

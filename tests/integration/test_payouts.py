"""Payouts: each is paid once, whatever the provider answers; and who may do what to them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conftest import MakePaybus
from support.paybus import Paybus
from support.payouts import (
    OPTIONS,
    PROCESSES,
    PROVIDERS,
    QUICK,
    add,
    balances,
    order,
    transfers,
    until_state,
    well,
)


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(PROCESSES, payout_options=OPTIONS, **QUICK) as paybus:
        yield paybus


@pytest.fixture(autouse=True)
def everything_well(paybus: Paybus) -> None:
    well(paybus)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_payout_is_paid_and_the_ledger_says_so(paybus: Paybus, provider: str) -> None:
    seller = add(paybus, provider)
    payout = order(paybus, seller, 5000, fee=100)
    paid = until_state(paybus, payout, "paid")
    (transfer,) = transfers(paybus, payout)
    assert (transfer["amount"], transfer["status"]) == (5000, "paid")
    assert paid["transfer_id"] == transfer["id"]
    assert [each["outcome"] for each in paid["tries"]] == ["accepted"]
    assert balances(paybus, seller) == {
        "platform": -5100,
        "available": 0,
        "pending": 0,
        "paid": 5000,
        "fees": 100,
    }

"""Banks' amounts are read exactly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bank_sync.clients.plaid import page_of


def answer(figure: str, **more: Any) -> str:
    transaction = {
        "transaction_id": "t",
        "account_id": "a",
        "amount": "FIGURE",
        "iso_currency_code": "USD",
        "date": "2026-11-22",
        "name": "n",
        "pending": False,
    }
    page = {
        "added": [transaction | more],
        "modified": [],
        "removed": [],
        "next_cursor": "c",
        "has_more": False,
    }
    return json.dumps(page).replace('"FIGURE"', figure)


@pytest.mark.parametrize(
    ("figure", "amount"),
    [
        ("12.34", 1234),
        ("-0.01", -1),
        ("5", 500),
        ("90071992547409.93", 9007199254740993),
        ("12345678901234567.89", 1234567890123456789),
        ("1e3", 100_000),
    ],
)
def test_no_digit_is_lost(figure: str, amount: int) -> None:
    (transaction,) = page_of(answer(figure)).added
    assert (transaction.money.amount, transaction.money.rounded) == (amount, False)


def test_an_unofficial_currency_has_eight_digits() -> None:
    more = {"iso_currency_code": None, "unofficial_currency_code": "BTC"}
    (transaction,) = page_of(answer("123456789.12345678", **more)).added
    assert (transaction.money.amount, transaction.money.rounded) == (12345678912345678, False)


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "1.2.3", '"x"'])
def test_what_is_no_number_is_refused(figure: str) -> None:
    with pytest.raises(ValueError, match=r"number|JSON|decimal|Expecting|amount"):
        page_of(answer(figure))

"""Stripe's own units: https://docs.stripe.com/currencies#special-cases"""

from __future__ import annotations

import pytest

from common.errors import Invalid
from common.stripe_sdk import check_amount, from_stripe, step, to_stripe
from sandbox.stripe_api import refusal

_SPECIAL = ("ISK", "UGX", "MGA", "HUF", "TWD", "BHD", "JOD", "KWD", "OMR", "TND")
_CURRENCIES = ("USD", "EUR", "JPY", "XAF", "KRW", "CLP", "RWF", *_SPECIAL)


@pytest.mark.parametrize(
    ("amount", "currency", "theirs"),
    [
        (1550, "EUR", 1550),
        (500, "XAF", 500),
        (500, "ISK", 50_000),
        (500, "UGX", 50_000),
        (500, "MGA", 5),
        (12_340, "KWD", 12_340),
        (150, "HUF", 150),
    ],
)
def test_an_amount_is_sent_in_stripe_s_units_and_read_back(
    amount: int, currency: str, theirs: int
) -> None:
    assert to_stripe(amount, currency) == theirs
    assert from_stripe(theirs, currency) == amount


@pytest.mark.parametrize("payout", [False, True])
@pytest.mark.parametrize("currency", _CURRENCIES)
def test_what_is_checked_here_is_what_stripe_takes(currency: str, payout: bool) -> None:
    for amount in range(1, 1200):
        multiple = step(currency, payout=payout)
        theirs = to_stripe(amount, currency)
        if amount % multiple:
            with pytest.raises(Invalid, match=f"multiples of {multiple}"):
                check_amount(amount, currency, payout=payout)
            if from_stripe(theirs, currency) == amount:
                assert refusal(theirs, currency, payout=payout) is not None
        else:
            check_amount(amount, currency, payout=payout)
            assert refusal(theirs, currency, payout=payout) is None
            assert from_stripe(theirs, currency) == amount


def test_an_amount_with_decimals_that_the_currency_lacks_is_no_amount() -> None:
    with pytest.raises(ValueError, match="not an amount of ISK"):
        from_stripe(50_050, "ISK")

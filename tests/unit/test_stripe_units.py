"""Stripe's units of amounts: https://docs.stripe.com/currencies#special-cases"""

from __future__ import annotations

import httpx
import pytest
from pydantic import HttpUrl, SecretStr

from common.clients.stripe import check_amount, from_stripe, step, to_stripe
from common.errors import Invalid, ProviderRejected
from sandbox.stripe.api import refusal
from subscription.providers.base import RefundRequest
from subscription.providers.stripe import Options, Stripe

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
        if amount % multiple:
            with pytest.raises(Invalid, match=f"multiples of {multiple}"):
                check_amount(amount, currency, payout=payout)
            try:
                theirs = to_stripe(amount, currency)
            except ValueError:
                continue  # Stripe has no such amount
            assert refusal(theirs, currency, payout=payout) is not None
        else:
            check_amount(amount, currency, payout=payout)
            theirs = to_stripe(amount, currency)
            assert refusal(theirs, currency, payout=payout) is None
            assert from_stripe(theirs, currency) == amount


def test_what_stripe_has_no_unit_for_is_not_rounded() -> None:
    with pytest.raises(ValueError, match="no 150 MGA"):
        to_stripe(150, "MGA")


async def test_a_refund_that_stripe_can_t_make_is_refused_before_it_is_asked_for() -> None:
    options = Options(api_key=SecretStr("sk_test_x"), base_url=HttpUrl("http://127.0.0.1:9"))
    async with httpx.AsyncClient() as http:
        request = RefundRequest("r1", "cs_1", 150, "MGA", 1)
        with pytest.raises(ProviderRejected, match="multiples of 100"):
            await Stripe(options, http).refund(request)


def test_an_amount_with_decimals_that_the_currency_lacks_is_no_amount() -> None:
    with pytest.raises(ValueError, match="not an amount in ISK"):
        from_stripe(50_050, "ISK")

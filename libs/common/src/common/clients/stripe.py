"""The official Stripe SDK as every service uses it: one attempt, errors as Paybus errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import stripe
from pydantic import HttpUrl, SecretStr

from common.errors import (
    Invalid,
    NotAuthorized,
    ProviderRejected,
    ProviderTimeout,
    RateLimited,
    Upstream,
)

API = HttpUrl("https://api.stripe.com")
# https://docs.stripe.com/currencies#special-cases
_IN_HUNDREDTHS = frozenset({"ISK", "UGX"})  # no minor unit; Stripe's two digits are always 00
_IN_WHOLES = frozenset({"MGA"})
_IN_TENS = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
_PAID_OUT_IN_WHOLES = frozenset({"HUF", "TWD"})

_RETRY_AFTER_SECONDS = 5.0


def step(currency: str, *, payout: bool = False) -> int:
    """Return the number of ISO 4217 minor units that every amount must be a multiple of.

    `payout` is whether the amount goes to a bank.
    """
    if currency in _IN_WHOLES or (payout and currency in _PAID_OUT_IN_WHOLES):
        return 100
    return 10 if currency in _IN_TENS else 1


def check_amount(amount: int, currency: str, *, payout: bool = False) -> None:
    """Raise `Invalid` for an amount (minor units) that Stripe can't move."""
    multiple = step(currency, payout=payout)
    if amount % multiple:
        what = "pays out" if payout else "takes"
        raise Invalid(f"stripe {what} {currency} in multiples of {multiple} (minor units)")


def to_stripe(amount: int, currency: str) -> int:
    """Convert ISO 4217 minor units to Stripe's units, which differ for a few currencies.

    Raise `ValueError` for an amount that Stripe has no unit for (`check_amount`).
    """
    if currency in _IN_WHOLES:
        if amount % 100:
            raise ValueError(f"stripe has no {amount} {currency}")
        return amount // 100
    return amount * 100 if currency in _IN_HUNDREDTHS else amount


def from_stripe(amount: int, currency: str) -> int:
    """Convert Stripe's units to ISO 4217 minor units. Raise `ValueError` for an invalid amount."""
    if currency in _IN_WHOLES:
        return amount * 100
    if currency not in _IN_HUNDREDTHS:
        return amount
    if amount % 100:
        raise ValueError(f"not an amount in {currency}")
    return amount // 100


def stripe_client(api_key: SecretStr, base_url: HttpUrl, *, timeout: Any) -> stripe.StripeClient:
    """Return a client that never retries: only the caller knows the effect of a second call.

    `timeout` is passed to httpx, in seconds.
    """
    return stripe.StripeClient(
        api_key.get_secret_value(),
        base_addresses={"api": str(base_url).rstrip("/")},
        http_client=stripe.HTTPXClient(timeout=timeout),
        max_network_retries=0,
    )


class IdempotencyKeyConsumed(Upstream):
    """HTTP 500 for a call with an idempotency key; Stripe would repeat it for the same key.

    `partly` is whether an earlier call changed something.
    """

    partly = False


@contextmanager
def with_key() -> Iterator[None]:
    """Wrap one call that has an idempotency key.

    Raise `IdempotencyKeyConsumed`, and those errors of `stripe_answers` after which the same key is
    still right.
    """
    try:
        with stripe_answers():
            yield
    except (ProviderTimeout, NotAuthorized, ProviderRejected):
        raise
    except Upstream as error:
        raise IdempotencyKeyConsumed(*error.args) from error


@contextmanager
def stripe_answers() -> Iterator[None]:
    """Translate the SDK's errors into those of `common.clients.json_api.request`."""
    try:
        yield
    except stripe.RateLimitError as error:
        raise RateLimited("limits the rate of calls", _RETRY_AFTER_SECONDS) from error
    except stripe.PermissionError as error:
        code = error.error.code if error.error else None  # the SDK sets `code` for some errors only
        if code == "account_invalid":  # a connected account that revoked our access
            raise ProviderRejected(f"answers 403: {code} {error.user_message}", 403) from error
        raise NotAuthorized(f"answers 403: check what the api_key may do ({code})") from error
    except stripe.AuthenticationError as error:
        raise NotAuthorized(f"answers {error.http_status}: check the api_key") from error
    except (stripe.InvalidRequestError, stripe.CardError) as error:
        said = f"{error.code or ''} {error.user_message}".strip()
        raise ProviderRejected(
            f"answers {error.http_status}: {said}", error.http_status or 400
        ) from error
    except stripe.APIConnectionError as error:
        raise ProviderTimeout("did not respond (APIConnectionError)") from error
    except stripe.StripeError as error:
        said = f"answers {error.http_status} ({type(error).__name__})"
        if error.http_status == httpx.codes.INTERNAL_SERVER_ERROR:
            raise Upstream(said) from error
        raise ProviderTimeout(said) from error  # the key is in use, or an intermediary gave up

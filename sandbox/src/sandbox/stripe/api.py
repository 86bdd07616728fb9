"""The version of Stripe's API that the stand-ins implement, and the amounts it rejects."""

from __future__ import annotations

VERSION = "2026-10-28.endive"

# https://docs.stripe.com/currencies#special-cases
_ALWAYS_00 = {"isk", "ugx"}
_LAST_DIGIT_0 = {"bhd", "jod", "kwd", "omr", "tnd"}
_PAID_OUT_IN_HUNDREDS = {"huf", "twd"}


def refusal(amount: int, currency: str, *, payout: bool = False) -> str | None:
    """Return why Stripe rejects the amount, given in Stripe's units, or None."""
    currency = currency.lower()
    if amount <= 0:
        return "This value must be greater than or equal to 1."
    if currency in _ALWAYS_00 or (payout and currency in _PAID_OUT_IN_HUNDREDS):
        multiple = 100
    else:
        multiple = 10 if currency in _LAST_DIGIT_0 else 1
    if amount % multiple:
        return f"Amount in {currency} must be evenly divisible by {multiple}."
    return None

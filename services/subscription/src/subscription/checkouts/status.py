"""How a checkout ended. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class CheckoutStatus(StrEnum):
    STARTING = "starting"  # the provider may have heard of it or not
    REFUSED = "refused"  # by the provider, at the start
    PENDING = "pending"
    PAID = "paid"
    UNDERPAID = "underpaid"  # less, or in another currency, than was asked for
    FAILED = "failed"  # may still be paid while the provider lets the payer try again
    EXPIRED = "expired"


# Whatever else is reported, before or after: money that came is not forgotten.
_WEIGHT = {CheckoutStatus.PAID: 2, CheckoutStatus.UNDERPAID: 1}


@dataclass(frozen=True)
class Outcome:
    """A report about a checkout at `at` (UTC). Of several the one with the highest order holds: a
    payment, of two payments the earlier one, else the newest report."""

    status: CheckoutStatus
    at: datetime
    event_id: str

    @property
    def order(self) -> tuple[int, float, str]:
        seconds = self.at.timestamp()
        paid = self.status is CheckoutStatus.PAID
        return _WEIGHT.get(self.status, 0), -seconds if paid else seconds, self.event_id


def of_payment(
    *, paid: int, currency: str, expected: int | None, expected_currency: str | None
) -> CheckoutStatus:
    """The status after a payment (minor units). `expected` is None for a price of the provider."""
    if expected is not None and (currency != expected_currency or paid < expected):
        return CheckoutStatus.UNDERPAID
    return CheckoutStatus.PAID

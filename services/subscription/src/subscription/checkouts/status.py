"""Outcome of a checkout. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class CheckoutStatus(StrEnum):
    STARTING = "starting"  # the provider may have received it or not
    REFUSED = "refused"  # by the provider, at the start
    PENDING = "pending"
    PAID = "paid"
    UNDERPAID = "underpaid"  # less than requested, or in another currency
    FAILED = "failed"  # may still be paid while the provider lets the payer retry
    EXPIRED = "expired"


# Money received outweighs every other report, before or after it.
_WEIGHT = {CheckoutStatus.PAID: 2, CheckoutStatus.UNDERPAID: 1}


@dataclass(frozen=True)
class Outcome:
    """A report about a checkout at `at` (UTC). The report with the highest `order` applies: the
    earliest full payment, else the newest underpayment, else the newest other report."""

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
    """Return a payment's status (minor units). `expected` is None if the provider sets the
    price."""
    if expected is not None and (currency != expected_currency or paid < expected):
        return CheckoutStatus.UNDERPAID
    return CheckoutStatus.PAID

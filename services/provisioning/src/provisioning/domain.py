"""What an organization should be, and the next step towards it. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Organization(StrEnum):
    """An organization as it is wanted, or as it is in the back end."""

    ABSENT = "absent"
    ACTIVE = "active"
    SUSPENDED = "suspended"


class Operation(StrEnum):
    CREATE = "create"
    SUSPEND = "suspend"
    RESUME = "resume"

    @property
    def result(self) -> Organization:
        return Organization.SUSPENDED if self is Operation.SUSPEND else Organization.ACTIVE


class Status(StrEnum):
    """What an operator sees of an integration."""

    WAITING = "waiting"  # the customer's e-mail address is not known yet
    PENDING = "pending"  # an operation is due or under way
    PARKED = "parked"  # an operation is due and the integration is switched off
    PROVISIONED = "provisioned"
    SUSPENDED = "suspended"
    FAILED = "failed"  # all attempts of an operation failed
    NOT_NEEDED = "not_needed"  # no subscription wants an organization, and there is none


@dataclass(frozen=True)
class SubscriptionState:
    """One subscription of the customer."""

    active: bool


def wanted(subscriptions: Iterable[SubscriptionState]) -> Organization:
    """One active subscription is enough; a customer has one organization however many there are."""
    all_ = list(subscriptions)
    if any(each.active for each in all_):
        return Organization.ACTIVE
    return Organization.SUSPENDED if all_ else Organization.ABSENT


def next_operation(
    wanted: Organization, actual: Organization, *, unknown: bool = False
) -> Operation | None:
    """The call that brings `actual` closer to `wanted`; None when there is nothing to do.

    What ended before it was created is never created. While a call's outcome is `unknown`,
    `actual` is no fact: what is wanted is then said again, even where it seems to be so already.
    """
    if unknown and wanted is Organization.SUSPENDED:
        return Operation.SUSPEND  # whoever does it looks first whether there is anything
    if unknown and wanted is Organization.ACTIVE and actual is not Organization.ABSENT:
        return Operation.RESUME
    match wanted, actual:
        case Organization.ACTIVE, Organization.ABSENT:
            return Operation.CREATE
        case Organization.ACTIVE, Organization.SUSPENDED:
            return Operation.RESUME
        case Organization.SUSPENDED, Organization.ACTIVE:
            return Operation.SUSPEND
    return None


def status(
    wanted: Organization,
    actual: Organization,
    *,
    unknown: bool = False,
    contact_known: bool,
    enabled: bool,
) -> Status:
    """The status while nothing has failed for good."""
    operation = next_operation(wanted, actual, unknown=unknown)
    if operation is Operation.CREATE and not contact_known:
        return Status.WAITING
    if operation is not None:
        return Status.PENDING if enabled else Status.PARKED
    return {
        Organization.ABSENT: Status.NOT_NEEDED,
        Organization.ACTIVE: Status.PROVISIONED,
        Organization.SUSPENDED: Status.SUSPENDED,
    }[actual]


def too_many_failed(failed: int, finished: int, limit: float = 0.10) -> bool:
    """Whether more than `limit` of the finished attempts failed."""
    return finished > 0 and failed / finished > limit

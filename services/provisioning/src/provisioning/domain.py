"""The desired state of an organization, and the next step towards it. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Organization(StrEnum):
    """The desired state of an organization, or the observed one in the backend API."""

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
    """The status of an integration, as displayed to operators."""

    WAITING = "waiting"  # the customer's e-mail address is not known yet
    PENDING = "pending"  # an operation is due or under way
    PARKED = "parked"  # an operation is due and the integration is switched off
    PROVISIONED = "provisioned"
    SUSPENDED = "suspended"
    FAILED = "failed"  # all attempts of an operation failed
    NOT_NEEDED = "not_needed"  # no active subscription, and no organization


@dataclass(frozen=True)
class SubscriptionState:
    """One subscription of the customer."""

    active: bool


def desired_state(subscriptions: Iterable[SubscriptionState]) -> Organization:
    """Return the desired state. One active subscription is enough; a customer has one organization,
    however many subscriptions there are."""
    all_ = list(subscriptions)
    if any(each.active for each in all_):
        return Organization.ACTIVE
    return Organization.SUSPENDED if all_ else Organization.ABSENT


def next_operation(
    desired: Organization, observed: Organization, *, unknown: bool = False
) -> Operation | None:
    """Return the operation that brings `observed` closer to `desired`; None when none is due.

    An organization whose subscriptions ended first is never created. While a call's outcome is
    `unknown`, `observed` is not certain: the call is repeated even if it seems to have succeeded.
    """
    if unknown and desired is Organization.SUSPENDED:
        return Operation.SUSPEND  # the provisioner checks first whether it exists
    if unknown and desired is Organization.ACTIVE and observed is not Organization.ABSENT:
        return Operation.RESUME
    match desired, observed:
        case Organization.ACTIVE, Organization.ABSENT:
            return Operation.CREATE
        case Organization.ACTIVE, Organization.SUSPENDED:
            return Operation.RESUME
        case Organization.SUSPENDED, Organization.ACTIVE:
            return Operation.SUSPEND
    return None


def status(
    desired: Organization,
    observed: Organization,
    *,
    unknown: bool = False,
    contact_known: bool,
    enabled: bool,
) -> Status:
    """Return the status while nothing has failed permanently."""
    operation = next_operation(desired, observed, unknown=unknown)
    if operation is Operation.CREATE and not contact_known:
        return Status.WAITING
    if operation is not None:
        return Status.PENDING if enabled else Status.PARKED
    return {
        Organization.ABSENT: Status.NOT_NEEDED,
        Organization.ACTIVE: Status.PROVISIONED,
        Organization.SUSPENDED: Status.SUSPENDED,
    }[observed]


def too_many_failed(failed: int, finished: int, limit: float = 0.10) -> bool:
    """Return whether more than `limit` of the finished attempts failed."""
    return finished > 0 and failed / finished > limit

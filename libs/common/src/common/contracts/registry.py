"""Every event type: which exchange carries it, what its data looks like, what it means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.contracts import event
from common.contracts.event import Event, Payload
from common.contracts.jobs import JobDue
from common.contracts.payments import (
    CheckoutCompleted,
    PaymentDisputed,
    PaymentRefunded,
    PaymentReported,
    ProviderEvent,
)
from common.contracts.provisioning import OrganizationChanged, OrganizationRequested
from common.contracts.subscriptions import (
    CustomerChanged,
    ProviderSubscription,
    SubscriptionChanged,
)


@dataclass(frozen=True)
class EventType:
    exchange: str
    payload: type[Payload]
    meaning: str


PROVIDER_PREFIX: Final = "provider."

EVENT_TYPES: Final[Mapping[str, EventType]] = {
    "checkout.completed": EventType(
        "payments", CheckoutCompleted, "A customer finished a provider's checkout page."
    ),
    "payment.succeeded": EventType("payments", PaymentReported, "A payment arrived."),
    "payment.failed": EventType("payments", PaymentReported, "An attempt to pay failed."),
    "payment.refunded": EventType("payments", PaymentRefunded, "Money went back to the payer."),
    "payment.disputed": EventType("payments", PaymentDisputed, "The payer disputes a payment."),
    "provider_subscription.created": EventType(
        "subscriptions", ProviderSubscription, "The provider created a subscription."
    ),
    "provider_subscription.updated": EventType(
        "subscriptions", ProviderSubscription, "The provider changed a subscription."
    ),
    "provider_subscription.deleted": EventType(
        "subscriptions", ProviderSubscription, "The provider ended a subscription."
    ),
    "subscription.activated": EventType(
        "subscriptions",
        SubscriptionChanged,
        "A subscription is active, for the first time or again.",
    ),
    "subscription.renewed": EventType(
        "subscriptions",
        SubscriptionChanged,
        "An active subscription was paid for a further period.",
    ),
    "subscription.past_due": EventType(
        "subscriptions",
        SubscriptionChanged,
        "A renewal was not paid; the subscription may recover.",
    ),
    "subscription.plan_changed": EventType(
        "subscriptions", SubscriptionChanged, "The subscription is on another plan."
    ),
    "subscription.cancelled": EventType(
        "subscriptions", SubscriptionChanged, "The subscription ended."
    ),
    "customer.changed": EventType(
        "subscriptions", CustomerChanged, "A customer's e-mail address or name changed."
    ),
    "organization.requested": EventType(
        "provisioning", OrganizationRequested, "Command: bring one organization up to date."
    ),
    "organization.provisioned": EventType(
        "provisioning", OrganizationChanged, "The organization exists and is usable."
    ),
    "organization.failed": EventType(
        "provisioning",
        OrganizationChanged,
        "All attempts to provision failed; an operator may retry.",
    ),
    "organization.suspended": EventType(
        "provisioning", OrganizationChanged, "The organization was suspended in the back end."
    ),
    "provisioning.job_due": EventType(
        "provisioning", JobDue, "A scheduled job of the provisioning service is due."
    ),
}


def lookup(type_: str) -> EventType:
    """The type's entry. Raises `LookupError` for a type that no contract names."""
    if type_.startswith(PROVIDER_PREFIX):
        return EventType("payments", ProviderEvent, "A webhook that Paybus does not translate.")
    try:
        return EVENT_TYPES[type_]
    except KeyError:
        raise LookupError(f"unknown event type {type_!r}") from None


def decode(body: bytes) -> Event[Any]:
    """Parse a message of any registered type. Raises `DecodeError`."""
    return event.decode(body, lambda type_: lookup(type_).payload)

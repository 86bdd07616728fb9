"""Exchange `subscriptions`: provider reports about subscriptions, and what Paybus derives from
them."""

from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field

from common.contracts.event import Id, Payload
from common.contracts.money import Currency, MinorUnits
from common.contracts.payments import Contact


class Status(StrEnum):
    """Subscription status in Paybus, whatever the provider calls it."""

    INCOMPLETE = "incomplete"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    UNPAID = "unpaid"  # the provider stopped collecting, and retains the subscription
    PAUSED = "paused"  # a trial ended without a payment method: nothing is charged until it resumes
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class PlanSnapshot(Payload):
    """Subscribed plan, charged every `interval_count` intervals. `interval` is `day`, `week`,
    `month` or `year`."""

    plan_id: Id
    name: str | None = None
    amount: MinorUnits | None = None
    currency: Currency | None = None
    interval: str | None = None
    interval_count: int = 1


class SubscriptionItem(Payload):
    """One plan of a subscription. `quantity` is None for a metered plan."""

    plan_id: Id
    quantity: int | None = None
    current_period_end: AwareDatetime | None = None


class PreviousSubscription(Payload):
    """State of a subscription before the change that an event reports."""

    status: Status
    plan_id: Id | None = None
    items: list[SubscriptionItem] = Field(default_factory=list)
    current_period_end: AwareDatetime | None = None
    cancel_at_period_end: bool = False
    cancel_at: AwareDatetime | None = None
    trialing: bool = False
    collection_paused: bool = False


class ProviderSubscription(Payload):
    """Provider's snapshot of one subscription at the event's `time`.

    `plan` is the plan of its first item, `more_plans` those of the others; `items` lists each with
    its quantity and end. `cancel_at` is when the subscription ends, if that is decided. `previous`
    is the state before, where the provider reports it: it decides which of two snapshots of the
    same second is the later one. `collection_paused` is whether the provider collects no payments
    for now, whatever the status. `metadata_as_of` is when the metadata was set, if that is known to
    be before the event's time.
    """

    provider: str
    subscription_id: Id
    customer_id: Id
    status: Status
    plan: PlanSnapshot | None = None
    more_plans: list[PlanSnapshot] = Field(default_factory=list)
    items: list[SubscriptionItem] = Field(default_factory=list)
    current_period_end: AwareDatetime | None = None
    cancel_at_period_end: bool = False
    cancel_at: AwareDatetime | None = None
    trialing: bool = False
    collection_paused: bool = False
    previous: PreviousSubscription | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    metadata_as_of: AwareDatetime | None = None


class ProviderCustomer(Payload):
    """Provider's report of a customer's contact data, as of the event's `time`. What `removed`
    names was there before, and the customer has none now."""

    provider: str
    customer_id: Id
    contact: Contact
    removed: list[Literal["email", "name"]] = Field(default_factory=list)


class ResumeBillingCommand(Payload):
    """Command: resume an unfinished billing command at the provider. Idempotent."""

    command_id: Id


class SubscriptionChanged(Payload):
    """Subscription after the change that the event type names.

    `subscription_id`, `customer_id` and the plan ids are Paybus's own. `items` is empty
    if the provider names only one plan; `plan_id` is then that plan, otherwise that of the first
    item.
    """

    subscription_id: Id
    customer_id: Id
    provider: str
    provider_subscription_id: Id
    status: Status
    plan_id: Id | None
    items: list[SubscriptionItem] = Field(default_factory=list)
    current_period_end: AwareDatetime | None
    contact: Contact = Contact()
    contact_sequence: int = Field(
        default=0,
        description="the customer's version that `contact` belongs to; the highest version applies",
    )
    previous_plan_id: Id | None = None


class CustomerChanged(Payload):
    """Customer whose e-mail address or name became known or changed."""

    customer_id: Id
    contact: Contact

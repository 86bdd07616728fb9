"""Exchange `subscriptions`: what providers say of subscriptions, and what Paybus concludes."""

from enum import StrEnum

from pydantic import AwareDatetime, Field

from common.contracts.event import Id, Payload
from common.contracts.money import Currency, MinorUnits
from common.contracts.payments import Contact


class Status(StrEnum):
    """A subscription's status in Paybus, whatever the provider calls it."""

    INCOMPLETE = "incomplete"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    UNPAID = "unpaid"  # the provider has given up collecting, and keeps the subscription
    PAUSED = "paused"  # a trial ended without a payment method: nothing is charged until it resumes
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class PlanSnapshot(Payload):
    """What is subscribed to. `interval` is `day`, `week`, `month` or `year`."""

    plan_id: Id
    name: str | None = None
    amount: MinorUnits | None = None
    currency: Currency | None = None
    interval: str | None = None


class SubscriptionItem(Payload):
    """One of the plans that a subscription is made of. `quantity` is None where it is metered."""

    plan_id: Id
    quantity: int | None = None
    current_period_end: AwareDatetime | None = None


class PreviousSubscription(Payload):
    """What was so of a subscription before the change that an event reports."""

    status: Status
    plan_id: Id | None = None
    items: list[SubscriptionItem] = Field(default_factory=list)
    current_period_end: AwareDatetime | None = None
    cancel_at_period_end: bool = False
    cancel_at: AwareDatetime | None = None


class ProviderSubscription(Payload):
    """A provider's snapshot of one subscription at the event's `time`.

    `plan` is that of its first item, `more_plans` those of the others, and `items` name each with
    its quantity and end. `cancel_at` is when it ends, if that is decided; `previous` is what was so
    before, where the provider says so: of two snapshots of one second it tells which is the later.
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
    previous: PreviousSubscription | None = None
    metadata: dict[str, str] = Field(default_factory=dict)


class ResumeBillingCommand(Payload):
    """A command: go on with what somebody wants done at the provider. Twice is once."""

    command_id: Id


class SubscriptionChanged(Payload):
    """A subscription after the change that the event's type names.

    `subscription_id`, `customer_id` and the plans' are Paybus's own ids. `plan_id` is that of the
    first of `items`, which are empty where the provider names one plan only.
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
        default=0, description="the customer's version that `contact` is of; the highest counts"
    )
    previous_plan_id: Id | None = None


class CustomerChanged(Payload):
    """A customer's e-mail address or name became known or changed."""

    customer_id: Id
    contact: Contact

"""Exchange `payments`: what providers say about money, and webhooks that nobody translates."""

from typing import Any, Literal

from pydantic import AwareDatetime, Field

from common.contracts.event import Id, Payload
from common.contracts.money import Currency, MinorUnits


class Contact(Payload):
    """Who paid, as far as the provider says."""

    email: str | None = None
    name: str | None = None


class CheckoutStarted(Payload):
    """A customer was sent to pay. `reference` is what the provider calls the payment.

    `lookup` has further parameters for querying its status; `notification_reference` is what the
    provider's notifications carry instead of the reference, where they do.
    """

    provider: str
    endpoint: str
    reference: Id
    checkout_id: Id
    amount: MinorUnits
    currency: Currency
    expires_at: AwareDatetime
    notification_reference: str | None = None
    lookup: dict[str, str] = Field(default_factory=dict)


class CheckoutStatusChanged(Payload):
    """What became of a checkout that somebody else had started, for a `purpose` that they named.

    `amount` is what came, of a paid or an underpaid one, and `paid_at` (UTC) when; one that failed
    or expired may still be paid. `charge` is the provider's name of a further charge for the same
    checkout: what came by it is besides what came before.
    """

    checkout_id: Id
    purpose: str
    provider: str
    account: str
    status: Literal["paid", "underpaid", "failed", "expired"]
    amount: MinorUnits | None = None
    currency: Currency | None = None
    paid_at: AwareDatetime | None = None
    charge: str | None = None


class RefundRequested(Payload):
    """A command: give this much of what was paid in a checkout back to the payer, once for each
    `refund_id`. `again` is whether one that the provider refused is to be tried again."""

    refund_id: Id
    checkout_id: Id
    amount: MinorUnits
    currency: Currency
    reason: str
    again: bool = False


class RefundCompleted(Payload):
    """What became of it. `manual` is where the provider has no refunds: somebody has to pay it
    back. `unknown` is where no call was answered: it may have been made."""

    refund_id: Id
    checkout_id: Id
    status: Literal["succeeded", "failed", "manual", "unknown"]
    amount: MinorUnits
    currency: Currency
    provider_refund_id: str | None = None
    reason: str | None = None


class CheckoutCompleted(Payload):
    """A customer finished a provider's checkout page."""

    provider: str
    checkout_id: Id
    mode: Literal["payment", "subscription", "setup"]
    paid: bool
    customer_id: Id | None
    contact: Contact = Contact()
    subscription_id: Id | None = None
    amount: MinorUnits | None = None
    currency: Currency | None = None
    client_reference: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)


class UnverifiedPaymentNotification(Payload):
    """Somebody says that a payment changed. It proves nothing: the provider has to be asked.

    `reference` is what `endpoint`'s provider is asked for; `claim` is for people who read it.
    """

    provider: str
    endpoint: str
    reference: Id
    claim: str


class PaymentOutcome(Payload):
    """One attempt to pay, successful or not.

    `payment_id` is the provider's name of what was paid (an invoice); `references` are the other
    ids under which the provider may speak of the same money (payment intent, charge).
    """

    provider: str
    payment_id: Id
    references: list[str] = Field(default_factory=list)
    customer_id: Id | None
    contact: Contact = Contact()
    subscription_id: Id | None = None
    amount: MinorUnits
    currency: Currency
    reason: str | None = Field(default=None, description="why it failed, in the provider's words")


class PaymentRefunded(Payload):
    """Money went back. `amount_refunded` is the total so far, so a later report replaces it."""

    provider: str
    refund_of: Id = Field(description="the provider's id of the charge")
    references: list[str] = Field(default_factory=list)
    amount_refunded: MinorUnits
    currency: Currency


# The beginning of the keys under which our ids are in the metadata of providers' objects.
OUR_METADATA = "paybus_"
REFUND_IN_METADATA = f"{OUR_METADATA}refund"


class RefundReported(Payload):
    """What a provider says of one refund, which may fail after it had succeeded: the money is with
    us again then. `reference` is what we called it, if the provider repeats that."""

    provider: str
    refund_id: Id
    reference: str | None = None
    references: list[str] = Field(default_factory=list)
    status: Literal["pending", "succeeded", "failed"]
    amount: MinorUnits
    currency: Currency
    reason: str | None = None


class PaymentDisputed(Payload):
    """The payer's bank asks for the money back."""

    provider: str
    dispute_id: Id
    references: list[str]
    amount: MinorUnits
    currency: Currency
    reason: str


class ProviderEvent(Payload):
    """A verified webhook of a type that Paybus does not translate; `body` is its parsed JSON.

    `not_served` is why one of a type that Paybus does translate has no effect: it is of another
    account, or of another mode, than its endpoint serves.
    """

    provider: str
    provider_type: str
    body: dict[str, Any]
    not_served: str | None = None

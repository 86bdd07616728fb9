"""Exchange `payments`: provider reports about money, and webhooks that Paybus does not
translate."""

from typing import Any, Final, Literal

from pydantic import AwareDatetime, Field

from common.contracts.event import Id, Payload
from common.contracts.money import Currency, MinorUnits


class Contact(Payload):
    """The payer's contact data, as far as the provider reports it."""

    email: str | None = None
    name: str | None = None


class CheckoutStarted(Payload):
    """Start of a checkout: a customer was sent to pay. `reference` is the provider's id of the
    payment.

    `lookup` has further parameters for its status query. `notification_reference` is the id that
    the provider's notifications carry in place of the reference, where they do.
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
    """Outcome of a checkout that was started with a `purpose`, for the service that named it.

    `amount` is the money received, for a paid or underpaid checkout, and `paid_at` (UTC) when it
    arrived; a failed or expired checkout may still be paid. `charge` is the provider's id of a
    further charge for the same checkout: its money is in addition to what arrived before.
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
    """Command: refund this much of a checkout's payment to the payer, once per `refund_id`.

    `again` is whether to retry a refund that the provider refused.
    """

    refund_id: Id
    checkout_id: Id
    amount: MinorUnits
    currency: Currency
    reason: str
    again: bool = False


class RefundCompleted(Payload):
    """Outcome of a refund.

    `manual`: the provider has no refunds, so an operator has to pay it back. `unknown`: no call got
    a response, so the refund may have been made.
    """

    refund_id: Id
    checkout_id: Id
    status: Literal["succeeded", "failed", "manual", "unknown"]
    amount: MinorUnits
    currency: Currency
    provider_refund_id: str | None = None
    reason: str | None = None


class CheckoutCompleted(Payload):
    """Completion of a provider's checkout page by a customer. `payment_id` is the provider's id of
    a single payment; a subscription's payments are its invoices."""

    provider: str
    checkout_id: Id
    payment_id: Id | None = None
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
    """Unverified report that a payment changed. It proves nothing: the provider must be queried.

    `reference` identifies the payment in the query to `endpoint`'s provider; `claim` is only
    informative.
    """

    provider: str
    endpoint: str
    reference: Id
    claim: str


class PaymentOutcome(Payload):
    """One attempt to pay, successful or not.

    `payment_id` is the provider's id of what was paid (an invoice, or a single payment).
    `references` are the other ids under which the provider may report the same money (payment
    intent, charge). Stripe reports an invoice's payment twice: as the invoice, and as its payment
    intent. The payment intent's id is one of the invoice's references; if the invoice's report does
    not contain it, a later `payment.linked` adds it.
    `contact_as_of` is when the contact data was right, if that was before the report.
    """

    provider: str
    payment_id: Id
    references: list[str] = Field(default_factory=list)
    customer_id: Id | None
    contact: Contact = Contact()
    contact_as_of: AwareDatetime | None = None
    subscription_id: Id | None = None
    amount: MinorUnits
    currency: Currency
    reason: str | None = Field(
        default=None, description="the failure reason, as the provider states it"
    )


class PaymentRefunded(Payload):
    """Money returned to the payer. `amount_refunded` is the total so far, so a later report
    replaces it; it is lower than an earlier one if a refund failed. `payment_id` is the same
    as in the events of the payment itself, or null if this report does not contain it."""

    provider: str
    refund_of: Id = Field(description="the provider's id of the charge")
    payment_id: Id | None = None
    references: list[str] = Field(default_factory=list)
    amount_refunded: MinorUnits
    currency: Currency


# Prefix of the metadata keys that hold our ids in providers' objects.
OUR_METADATA = "paybus_"
REFUND_IN_METADATA = f"{OUR_METADATA}refund"


class RefundReported(Payload):
    """Provider report about one refund. It may fail after it succeeded; the money is then back
    in our account.

    `reference` is our own id of the refund, if the provider repeats it; `refund_of` and
    `payment_id` have the same meaning as in `payment.refunded`; `created_at` is when the refund was
    made.
    """

    provider: str
    refund_id: Id
    refund_of: Id | None = None
    payment_id: Id | None = None
    created_at: AwareDatetime | None = None
    reference: str | None = None
    references: list[str] = Field(default_factory=list)
    status: Literal["pending", "succeeded", "failed"]
    amount: MinorUnits
    currency: Currency
    reason: str | None = None


class PaymentLinked(Payload):
    """Further ids of a payment, by which its refunds and disputes name it."""

    provider: str
    payment_id: Id
    references: list[str]


DisputeStatus = Literal["inquiry", "open", "won", "lost"]
# The money of a dispute in one of these statuses is gone; after an inquiry it may be.
MONEY_IS_TAKEN: Final[frozenset[DisputeStatus]] = frozenset({"open", "lost"})


class PaymentDisputed(Payload):
    """Demand by the payer's bank that the money be returned, or the progress of one.

    `status` is `inquiry` while the bank only asks: no money has moved. `payment_id` has the
    same meaning as in `payment.refunded`.
    """

    provider: str
    dispute_id: Id
    payment_id: Id | None = None
    references: list[str]
    amount: MinorUnits
    currency: Currency
    reason: str
    status: DisputeStatus = "open"


class CheckoutReversed(Payload):
    """Refund or dispute of the payment of a checkout that was started with a `purpose`, as the
    provider reports it, including refunds that Paybus itself requested.

    `amount` is what the refunds of the charge returned so far, less those that failed, or what is
    disputed. Of one `reversal_id`, the event with the highest `sequence` applies.
    """

    checkout_id: Id
    purpose: str
    reversal_id: Id
    kind: Literal["refund", "dispute"]
    status: DisputeStatus | None = Field(default=None, description="of a dispute")
    amount: MinorUnits
    currency: Currency
    reason: str | None = None


class ProviderEvent(Payload):
    """Verified webhook of a type that Paybus does not translate; `body` is its parsed JSON.

    `not_served` is why a webhook of a type that Paybus does translate has no effect: it belongs to
    an account or a mode that its endpoint does not serve.
    """

    provider: str
    provider_type: str
    body: dict[str, Any]
    not_served: str | None = None

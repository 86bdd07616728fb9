"""Registry of event types: the exchange, payload and meaning of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.contracts import event
from common.contracts.banking import (
    BalanceUpdated,
    BankItemChanged,
    ProviderBankItem,
    RemoveBankItem,
    RunBankSync,
    TransactionsSynced,
)
from common.contracts.event import Event, Payload
from common.contracts.jobs import RunJob
from common.contracts.operations import ReplayItemsCompleted
from common.contracts.orders import OrderChanged
from common.contracts.payments import (
    CheckoutCompleted,
    CheckoutStarted,
    CheckoutStatusChanged,
    PaymentDisputed,
    PaymentOutcome,
    PaymentRefunded,
    ProviderEvent,
    RefundCompleted,
    RefundReported,
    RefundRequested,
    UnverifiedPaymentNotification,
)
from common.contracts.payouts import (
    EarningsAdjustment,
    GenerateDailyReport,
    PayoutChanged,
    ProcessPayout,
    ReconcileAccount,
    TransferReported,
)
from common.contracts.provisioning import OrganizationChanged, ReconcileOrganization
from common.contracts.subscriptions import (
    CustomerChanged,
    ProviderSubscription,
    ResumeBillingCommand,
    SubscriptionChanged,
)


@dataclass(frozen=True)
class EventType:
    exchange: str
    payload: type[Payload]
    meaning: str


PROVIDER_PREFIX: Final = "provider."

EVENT_TYPES: Final[Mapping[str, EventType]] = {
    "checkout.started": EventType(
        "payments", CheckoutStarted, "A customer was sent to pay; the payment is watched from now."
    ),
    "checkout.completed": EventType(
        "payments", CheckoutCompleted, "A customer finished a provider's checkout page."
    ),
    "checkout.status_changed": EventType(
        "payments", CheckoutStatusChanged, "A checkout for somebody's purpose was paid, or was not."
    ),
    "refund.requested": EventType("payments", RefundRequested, "Command: give a payer money back."),
    "refund.completed": EventType(
        "payments", RefundCompleted, "Money was given back, or could not be."
    ),
    "payment.succeeded": EventType("payments", PaymentOutcome, "A payment arrived."),
    "payment.failed": EventType("payments", PaymentOutcome, "An attempt to pay failed."),
    "payment.expired": EventType(
        "payments", PaymentOutcome, "The time to pay is over, and nothing was paid."
    ),
    "payment.duplicated": EventType(
        "payments",
        PaymentOutcome,
        "What is paid was paid once more: the second charge has to go back.",
    ),
    "payment.notification_received": EventType(
        "payments",
        UnverifiedPaymentNotification,
        "A hint that a payment changed; nobody may act on it unasked.",
    ),
    "payment.refunded": EventType("payments", PaymentRefunded, "Money went back to the payer."),
    "refund.reported": EventType(
        "payments", RefundReported, "What the provider says of a refund, which may fail later."
    ),
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
    "subscription.expiring": EventType(
        "subscriptions", SubscriptionChanged, "The paid period ends soon: remind the customer."
    ),
    "subscription.expired": EventType(
        "subscriptions",
        SubscriptionChanged,
        "It was not renewed in time; `subscription.cancelled` follows.",
    ),
    "subscription.suspended": EventType(
        "subscriptions",
        SubscriptionChanged,
        "It entitles its customer to nothing for now: unpaid, paused, or past due for too long.",
    ),
    "subscription.cancelled": EventType(
        "subscriptions", SubscriptionChanged, "The subscription ended."
    ),
    "billing_command.resume": EventType(
        "subscriptions", ResumeBillingCommand, "Command: go on with one whose process died."
    ),
    "job.run.subscription": EventType(
        "subscriptions", RunJob, "A scheduled job of the subscription service is due."
    ),
    "provider_transfer.created": EventType("payouts", TransferReported, "A transfer was accepted."),
    "provider_transfer.succeeded": EventType("payouts", TransferReported, "A transfer arrived."),
    "provider_transfer.failed": EventType(
        "payouts", TransferReported, "A transfer will not arrive."
    ),
    "provider_transfer.reversed": EventType(
        "payouts", TransferReported, "A transfer was taken back."
    ),
    "provider_payout.created": EventType(
        "payouts", TransferReported, "A payout is on its way to a bank."
    ),
    "provider_payout.succeeded": EventType(
        "payouts", TransferReported, "A payout arrived at the bank."
    ),
    "provider_payout.failed": EventType("payouts", TransferReported, "A payout will not arrive."),
    "provider_payout.notification_received": EventType(
        "payouts", TransferReported, "A hint that a payout changed; the provider has to be asked."
    ),
    "payout.process.critical": EventType(
        "payouts", ProcessPayout, "Command: go on with an urgent payout."
    ),
    "payout.process.direct": EventType(
        "payouts", ProcessPayout, "Command: go on with a payout that somebody ordered just now."
    ),
    "payout.process.default": EventType(
        "payouts", ProcessPayout, "Command: go on with a payout whose time came."
    ),
    "payout.process.low": EventType(
        "payouts", ProcessPayout, "Command: go on with a payout that may wait for all others."
    ),
    "payout_report.generate": EventType(
        "payouts", GenerateDailyReport, "Command: write a tenant's report of a day."
    ),
    "payout_reconciliation.run": EventType(
        "payouts", ReconcileAccount, "Command: compare a day of an account with its provider."
    ),
    "earnings.credit": EventType(
        "payouts", EarningsAdjustment, "Command: pay a recipient what they earned."
    ),
    "earnings.reverse": EventType(
        "payouts",
        EarningsAdjustment,
        "Command: take back what a recipient has not earned after all.",
    ),
    "payout.submitted": EventType("payouts", PayoutChanged, "The provider accepted a payout."),
    "payout.paid": EventType("payouts", PayoutChanged, "The recipient has the money."),
    "payout.failed": EventType(
        "payouts", PayoutChanged, "A payout was not made, and nothing tries it again by itself."
    ),
    "payout.returned": EventType(
        "payouts", PayoutChanged, "The money came back; it is owed to the recipient again."
    ),
    "payout.cancelled": EventType("payouts", PayoutChanged, "A payout was given up unsent."),
    "job.run.payouts": EventType(
        "payouts", RunJob, "A scheduled job of the payouts service is due."
    ),
    "order.placed": EventType("orders", OrderChanged, "An order was placed."),
    "order.payment_due": EventType(
        "orders", OrderChanged, "The time to pay ends soon: remind the buyer."
    ),
    "order.paid": EventType("orders", OrderChanged, "An order is paid."),
    "order.reopened": EventType(
        "orders",
        OrderChanged,
        "An order that was cancelled unpaid was paid late, and is open again.",
    ),
    "order.fulfilled": EventType("orders", OrderChanged, "An order was delivered."),
    "order.completed": EventType(
        "orders", OrderChanged, "An order is fulfilled, and its sellers' payouts are requested."
    ),
    "order.cancelled": EventType("orders", OrderChanged, "An order was given up unpaid."),
    "order.refunded": EventType(
        "orders", OrderChanged, "Money of an order's payment goes back to the buyer."
    ),
    "job.run.orders": EventType("orders", RunJob, "A scheduled job of the orders service is due."),
    "provider_bank_item.updated": EventType(
        "banking", ProviderBankItem, "There are new transactions."
    ),
    "provider_bank_item.failed": EventType(
        "banking", ProviderBankItem, "The link stopped working; the customer has to log in again."
    ),
    "provider_bank_item.repaired": EventType("banking", ProviderBankItem, "The link works again."),
    "provider_bank_item.expiring": EventType(
        "banking", ProviderBankItem, "The link ends soon unless the customer renews it."
    ),
    "provider_bank_item.revoked": EventType(
        "banking", ProviderBankItem, "The customer took the permission back: delete the data."
    ),
    "provider_bank_item.account_revoked": EventType(
        "banking",
        ProviderBankItem,
        "The customer took the permission for one account back: delete its data.",
    ),
    "provider_bank_item.accounts_available": EventType(
        "banking", ProviderBankItem, "The customer has accounts that are not shared yet."
    ),
    "bank_item.linked": EventType("banking", BankItemChanged, "A customer linked a bank."),
    "bank_item.health_changed": EventType(
        "banking", BankItemChanged, "What the customer has to do about the link changed."
    ),
    "bank_item.removed": EventType(
        "banking", BankItemChanged, "The link and all of its data are gone."
    ),
    "bank_sync.run": EventType("banking", RunBankSync, "A command: do this sync now."),
    "bank_item.remove": EventType(
        "banking", RemoveBankItem, "A command: have the provider let go of a removed item."
    ),
    "job.run.bank_sync": EventType("banking", RunJob, "A scheduled job is to run now."),
    "transactions.synced": EventType(
        "banking", TransactionsSynced, "An item's transactions changed; they are all there."
    ),
    "balance.updated": EventType("banking", BalanceUpdated, "An account's balance changed."),
    "customer.changed": EventType(
        "subscriptions", CustomerChanged, "A customer's e-mail address or name changed."
    ),
    "organization.reconcile": EventType(
        "provisioning", ReconcileOrganization, "Command: bring one organization up to date."
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
    "replay.items_completed": EventType(
        "operations", ReplayItemsCompleted, "A message that an operator had sent again was handled."
    ),
    "job.run.operations": EventType(
        "operations", RunJob, "A scheduled job of the operations service is due."
    ),
    "job.run.provisioning": EventType(
        "provisioning", RunJob, "A scheduled job of the provisioning service is due."
    ),
}


def lookup(type_: str) -> EventType:
    """Return the type's entry. Raise `LookupError` for a type that no contract names."""
    if type_.startswith(PROVIDER_PREFIX):
        return EventType("payments", ProviderEvent, "A webhook that Paybus does not translate.")
    try:
        return EVENT_TYPES[type_]
    except KeyError:
        raise LookupError(f"unknown event type {type_!r}") from None


def decode(body: bytes) -> Event[Any]:
    """Parse a message of any registered type. Raise `DecodeError`."""
    return event.decode(body, lambda type_: lookup(type_).payload)

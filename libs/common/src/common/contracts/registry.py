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
    CheckoutReversed,
    CheckoutStarted,
    CheckoutStatusChanged,
    PaymentDisputed,
    PaymentLinked,
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
    ProviderCustomer,
    ProviderSubscription,
    ResumeBillingCommand,
    SubscriptionChanged,
)
from common.contracts.topology import JOBS


@dataclass(frozen=True)
class EventType:
    exchange: str
    payload: type[Payload]
    meaning: str


PROVIDER_PREFIX: Final = "provider."

EVENT_TYPES: Final[Mapping[str, EventType]] = {
    "checkout.started": EventType(
        "payments", CheckoutStarted, "A checkout was started; its payment is tracked from now on."
    ),
    "checkout.completed": EventType(
        "payments", CheckoutCompleted, "A customer completed a provider's checkout page."
    ),
    "checkout.status_changed": EventType(
        "payments",
        CheckoutStatusChanged,
        "The status of a checkout with a `purpose` changed: paid, underpaid, failed or expired.",
    ),
    "checkout.reversed": EventType(
        "payments",
        CheckoutReversed,
        "The payment of a checkout with a `purpose` was refunded or disputed at the provider, or "
        "such a refund or dispute changed.",
    ),
    "refund.requested": EventType(
        "payments", RefundRequested, "Command: refund part or all of a checkout's payment."
    ),
    "refund.completed": EventType(
        "payments",
        RefundCompleted,
        "The outcome of a refund: succeeded, failed, manual or unknown.",
    ),
    "payment.succeeded": EventType("payments", PaymentOutcome, "A payment succeeded."),
    "payment.failed": EventType("payments", PaymentOutcome, "A payment attempt failed."),
    "payment.expired": EventType(
        "payments", PaymentOutcome, "The payment deadline passed and nothing was paid."
    ),
    "payment.duplicated": EventType(
        "payments",
        PaymentOutcome,
        "A payment that had already succeeded was charged again: the second charge must be "
        "refunded.",
    ),
    "payment.notification_received": EventType(
        "payments",
        UnverifiedPaymentNotification,
        "An unverified notification that a payment changed; the provider must be queried first.",
    ),
    "payment.refunded": EventType("payments", PaymentRefunded, "Money was returned to the payer."),
    "refund.reported": EventType(
        "payments",
        RefundReported,
        "The provider's report about one refund, which may fail even after it succeeded.",
    ),
    "payment.linked": EventType(
        "payments", PaymentLinked, "Further ids of a payment, which its refunds and disputes name."
    ),
    "payment.disputed": EventType(
        "payments", PaymentDisputed, "The payer disputes a payment, or a dispute has progressed."
    ),
    "provider_subscription.created": EventType(
        "subscriptions", ProviderSubscription, "The provider created a subscription."
    ),
    "provider_subscription.updated": EventType(
        "subscriptions", ProviderSubscription, "The provider changed a subscription."
    ),
    "provider_subscription.deleted": EventType(
        "subscriptions", ProviderSubscription, "The provider ended a subscription."
    ),
    "provider_customer.updated": EventType(
        "subscriptions",
        ProviderCustomer,
        "The provider reported a customer's contact data, new or changed.",
    ),
    "provider_customer.deleted": EventType(
        "subscriptions", ProviderCustomer, "The provider deleted a customer, with all contact data."
    ),
    "subscription.activated": EventType(
        "subscriptions",
        SubscriptionChanged,
        "A subscription became active, for the first time or again.",
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
        "subscriptions", SubscriptionChanged, "The subscription's plan changed."
    ),
    "subscription.expiring": EventType(
        "subscriptions", SubscriptionChanged, "The paid period ends soon: remind the customer."
    ),
    "subscription.expired": EventType(
        "subscriptions",
        SubscriptionChanged,
        "The subscription was not renewed in time; `subscription.cancelled` follows.",
    ),
    "subscription.suspended": EventType(
        "subscriptions",
        SubscriptionChanged,
        "The subscription gives no entitlement for now: unpaid, paused, or past due for too long.",
    ),
    "subscription.cancelled": EventType(
        "subscriptions", SubscriptionChanged, "The subscription ended."
    ),
    "billing_command.resume": EventType(
        "subscriptions",
        ResumeBillingCommand,
        "Command: resume a billing command whose process crashed.",
    ),
    "job.run.subscription": EventType(
        JOBS, RunJob, "A scheduled job of the subscription service is due."
    ),
    "provider_transfer.created": EventType("payouts", TransferReported, "A transfer was accepted."),
    "provider_transfer.succeeded": EventType("payouts", TransferReported, "A transfer arrived."),
    "provider_transfer.failed": EventType("payouts", TransferReported, "A transfer failed."),
    "provider_transfer.reversed": EventType(
        "payouts", TransferReported, "A transfer was reversed."
    ),
    "provider_payout.created": EventType(
        "payouts", TransferReported, "A payout to a bank is on its way."
    ),
    "provider_payout.succeeded": EventType(
        "payouts", TransferReported, "A payout arrived at the bank."
    ),
    "provider_payout.failed": EventType("payouts", TransferReported, "A payout to a bank failed."),
    "provider_payout.notification_received": EventType(
        "payouts",
        TransferReported,
        "An unverified notification that a payout changed; the provider must be queried.",
    ),
    "payout.process.critical": EventType(
        "payouts", ProcessPayout, "Command: process an urgent payout."
    ),
    "payout.process.direct": EventType(
        "payouts", ProcessPayout, "Command: process a payout that was just requested."
    ),
    "payout.process.default": EventType(
        "payouts", ProcessPayout, "Command: process a payout that became due."
    ),
    "payout.process.low": EventType(
        "payouts", ProcessPayout, "Command: process a payout that may wait for all others."
    ),
    "payout_report.generate": EventType(
        "payouts", GenerateDailyReport, "Command: write a tenant's report for one day."
    ),
    "payout_reconciliation.run": EventType(
        "payouts", ReconcileAccount, "Command: reconcile one day of an account with its provider."
    ),
    "earnings.credit": EventType(
        "payouts", EarningsAdjustment, "Command: credit earnings to a recipient."
    ),
    "earnings.reverse": EventType(
        "payouts",
        EarningsAdjustment,
        "Command: reverse earnings that are no longer due to a recipient.",
    ),
    "payout.submitted": EventType("payouts", PayoutChanged, "The provider accepted a payout."),
    "payout.paid": EventType("payouts", PayoutChanged, "The recipient received the money."),
    "payout.failed": EventType(
        "payouts", PayoutChanged, "A payout failed and is not retried automatically."
    ),
    "payout.returned": EventType(
        "payouts", PayoutChanged, "The money was returned; it is owed to the recipient again."
    ),
    "payout.cancelled": EventType(
        "payouts", PayoutChanged, "A payout was cancelled before it was sent."
    ),
    "job.run.payouts": EventType(JOBS, RunJob, "A scheduled job of the payouts service is due."),
    "order.placed": EventType("orders", OrderChanged, "An order was placed."),
    "order.payment_due": EventType(
        "orders", OrderChanged, "The payment deadline is near: remind the buyer."
    ),
    "order.paid": EventType("orders", OrderChanged, "An order was paid."),
    "order.reopened": EventType(
        "orders",
        OrderChanged,
        "An order that had been cancelled as unpaid was paid late and is open again.",
    ),
    "order.fulfilled": EventType("orders", OrderChanged, "An order was delivered."),
    "order.completed": EventType(
        "orders", OrderChanged, "An order was fulfilled and its sellers' earnings were released."
    ),
    "order.cancelled": EventType("orders", OrderChanged, "An unpaid order was cancelled."),
    "order.refunded": EventType(
        "orders", OrderChanged, "Part or all of an order's payment is being refunded to the buyer."
    ),
    "order.hold_changed": EventType(
        "orders",
        OrderChanged,
        "What is held back from an order's sellers changed: its payment was disputed, or refunded "
        "at the provider, or a dispute was won.",
    ),
    "job.run.orders": EventType(JOBS, RunJob, "A scheduled job of the orders service is due."),
    "provider_bank_item.updated": EventType(
        "banking", ProviderBankItem, "The item has new transactions."
    ),
    "provider_bank_item.failed": EventType(
        "banking", ProviderBankItem, "The link stopped working; the customer must log in again."
    ),
    "provider_bank_item.repaired": EventType("banking", ProviderBankItem, "The link works again."),
    "provider_bank_item.expiring": EventType(
        "banking", ProviderBankItem, "The link ends soon unless the customer renews it."
    ),
    "provider_bank_item.revoked": EventType(
        "banking", ProviderBankItem, "The customer revoked access: delete the data."
    ),
    "provider_bank_item.account_revoked": EventType(
        "banking",
        ProviderBankItem,
        "The customer revoked access to one account: delete its data.",
    ),
    "provider_bank_item.accounts_available": EventType(
        "banking", ProviderBankItem, "The customer has accounts that are not shared yet."
    ),
    "bank_item.linked": EventType("banking", BankItemChanged, "A customer linked a bank."),
    "bank_item.health_changed": EventType(
        "banking",
        BankItemChanged,
        "The health of a link changed, and with it what the customer must do.",
    ),
    "bank_item.removed": EventType(
        "banking", BankItemChanged, "The link and all its data were deleted."
    ),
    "bank_sync.run": EventType("banking", RunBankSync, "Command: run this sync now."),
    "bank_item.remove": EventType(
        "banking", RemoveBankItem, "Command: remove a deleted item at the provider."
    ),
    "job.run.bank_sync": EventType(
        JOBS, RunJob, "A scheduled job of the bank-sync service is due."
    ),
    "transactions.synced": EventType(
        "banking",
        TransactionsSynced,
        "A sync changed an item's transactions; all of them are stored.",
    ),
    "balance.updated": EventType("banking", BalanceUpdated, "An account's balance changed."),
    "customer.changed": EventType(
        "subscriptions", CustomerChanged, "A customer's e-mail address or name changed."
    ),
    "organization.reconcile": EventType(
        "provisioning",
        ReconcileOrganization,
        "Command: bring one organization to its desired state.",
    ),
    "organization.provisioned": EventType(
        "provisioning", OrganizationChanged, "The organization exists and is usable."
    ),
    "organization.failed": EventType(
        "provisioning",
        OrganizationChanged,
        "All provisioning attempts failed; an operator may retry.",
    ),
    "organization.suspended": EventType(
        "provisioning", OrganizationChanged, "The organization was suspended in the backend API."
    ),
    "replay.items_completed": EventType(
        "operations",
        ReplayItemsCompleted,
        "A service handled messages that an operator had replayed.",
    ),
    "job.run.operations": EventType(
        JOBS, RunJob, "A scheduled job of the operations service is due."
    ),
    "job.run.provisioning": EventType(
        JOBS, RunJob, "A scheduled job of the provisioning service is due."
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

"""Every exchange, queue and binding of the whole system, as data.

A message published to a domain exchange goes to the journal and to each queue bound to its type.
A message that fails goes to a `retry.<delay>` queue and from there back to the queue it came from;
when its attempts are used up, or the error is permanent, it goes to `<queue>.dead`.
"""

from dataclasses import dataclass
from typing import Any, Final

# Routing keys in these exchanges are event types.
DOMAIN_EXCHANGES: Final = (
    "payments",
    "subscriptions",
    "provisioning",
    "payouts",
    "banking",
    "orders",
    "operations",
)

# Publish here with a queue's name as the routing key.
DEAD_LETTER_EXCHANGE: Final = "dead-letters"

# The broker dead-letters by the one above, services by this one. With the two below it is a topic
# exchange, whose routing keys a login can be limited to: each service's to its own queues.
GIVEN_UP: Final = "given-up"

# Publish here with a queue's name as the routing key to copy to it what the journal has of it.
REFILLS: Final = "refills"

# Publish here with a stream's name as the routing key to mark in it where it ends just now.
MARKS: Final = "stream-marks"

# Publish to `retries.<wait>` with a queue's name as the routing key: there it goes after the wait.
RETRIES: Final = "retries"

# A stream of everything that was published to a domain exchange.
JOURNAL: Final = "journal"
JOURNAL_DAYS: Final = 7
_JOURNAL_ARGUMENTS: Final = {
    "x-queue-type": "stream",
    "x-max-age": f"{JOURNAL_DAYS}D",
    "x-max-length-bytes": 10_000_000_000,
    "x-stream-max-segment-size-bytes": 50_000_000,
}

# Publish here with a queue's name as the routing key to send a dead letter, or an event of the
# journal, to that queue once more. A publish reaches the queue and this stream: whoever takes over
# from an operations worker that died reads there what was sent.
REPLAYS: Final = "replays"
_REPLAYS_ARGUMENTS: Final = {
    "x-queue-type": "stream",
    "x-max-age": "1D",
    "x-max-length-bytes": 2_000_000_000,
    "x-stream-max-segment-size-bytes": 50_000_000,
}

# After so many deliveries without an outcome (the worker died each time) the broker dead-letters
# the message. Explicit because the default differs by version: none in RabbitMQ 3.10, 20 from 4.0.
DELIVERY_LIMIT: Final = 20

# A dead letter has nowhere further to go: the broker would drop it at the limit of RabbitMQ 4.
_NO_DELIVERY_LIMIT: Final = 1_000_000_000


@dataclass(frozen=True)
class Binding:
    exchange: str
    pattern: str


@dataclass(frozen=True)
class Queue:
    """A quorum queue with one consumer service; it always has a `<name>.dead`."""

    name: str
    bindings: tuple[Binding, ...] = ()

    @property
    def dead(self) -> str:
        return f"{self.name}.dead"

    def takes(self, exchange: str, routing_key: str) -> bool:
        """Whether a message published so is routed to this queue."""
        return any(
            each.exchange == exchange and matches(each.pattern, routing_key)
            for each in self.bindings
        )


QUEUES: Final = (
    Queue(
        "webhook-gateway.payments",
        (
            Binding("payments", "payment.notification_received"),
            Binding("payments", "checkout.started"),
        ),
    ),
    Queue(
        "subscription.billing",
        (
            Binding("payments", "payment.succeeded"),
            Binding("payments", "payment.failed"),
            Binding("payments", "payment.expired"),
            Binding("payments", "payment.refunded"),
            Binding("payments", "payment.disputed"),
            Binding("payments", "refund.reported"),
            Binding("payments", "payment.duplicated"),
            Binding("payments", "checkout.completed"),
            Binding("subscriptions", "provider_subscription.*"),
        ),
    ),
    Queue("subscription.refunds", (Binding("payments", "refund.requested"),)),
    Queue("subscription.commands", (Binding("subscriptions", "billing_command.resume"),)),
    Queue("subscription.jobs", (Binding("subscriptions", "job.run.subscription"),)),
    Queue(
        "provisioning.subscriptions",
        (
            Binding("subscriptions", "subscription.activated"),
            Binding("subscriptions", "subscription.suspended"),
            Binding("subscriptions", "subscription.cancelled"),
            Binding("subscriptions", "customer.changed"),
        ),
    ),
    Queue("provisioning.organizations", (Binding("provisioning", "organization.reconcile"),)),
    Queue("provisioning.jobs", (Binding("provisioning", "job.run.provisioning"),)),
    # One queue a priority, each with consumers of its own: nothing waits behind what may wait.
    Queue("payouts.critical", (Binding("payouts", "payout.process.critical"),)),
    Queue("payouts.direct", (Binding("payouts", "payout.process.direct"),)),
    Queue("payouts.default", (Binding("payouts", "payout.process.default"),)),
    Queue(
        "payouts.low",
        (
            Binding("payouts", "payout.process.low"),
            Binding("payouts", "payout_report.generate"),
            Binding("payouts", "payout_reconciliation.run"),
        ),
    ),
    Queue(
        "payouts.reports",
        (Binding("payouts", "provider_transfer.*"), Binding("payouts", "provider_payout.*")),
    ),
    Queue(
        "payouts.requests",
        (
            Binding("payouts", "earnings.credit"),
            Binding("payouts", "earnings.reverse"),
        ),
    ),
    Queue("payouts.jobs", (Binding("payouts", "job.run.payouts"),)),
    Queue(
        "bank-sync.items",
        (
            Binding("banking", "provider_bank_item.updated"),
            Binding("banking", "provider_bank_item.failed"),
            Binding("banking", "provider_bank_item.repaired"),
            Binding("banking", "provider_bank_item.expiring"),
            Binding("banking", "provider_bank_item.revoked"),
            Binding("banking", "provider_bank_item.account_revoked"),
            Binding("banking", "provider_bank_item.accounts_available"),
        ),
    ),
    Queue(
        "bank-sync.syncs",
        (Binding("banking", "bank_sync.run"), Binding("banking", "bank_item.remove")),
    ),
    Queue("bank-sync.jobs", (Binding("banking", "job.run.bank_sync"),)),
    Queue(
        "orders.payments",
        (Binding("payments", "checkout.status_changed"), Binding("payments", "refund.completed")),
    ),
    Queue("orders.jobs", (Binding("orders", "job.run.orders"),)),
    Queue("operations.outcomes", (Binding("operations", "replay.items_completed"),)),
    Queue("operations.jobs", (Binding("operations", "job.run.operations"),)),
)

# Bindings of earlier versions, which a broker keeps until they are taken away.
RETIRED_BINDINGS: Final = (
    ("subscription.billing", Binding("payments", "payment.*")),
    ("subscription.billing", Binding("payments", "checkout.*")),
)

# Webhooks that are authentic and still can't be understood: no queue, only its dead letters.
WEBHOOKS: Final = Queue("webhook-gateway.webhooks")

# These types have no queue on purpose: they are for the journal.
JOURNAL_ONLY: Final = (
    "subscription.renewed",
    "subscription.past_due",
    "subscription.plan_changed",
    "subscription.expiring",
    "subscription.expired",
    "organization.provisioned",
    "organization.failed",
    "organization.suspended",
    "payout.submitted",
    "payout.paid",
    "payout.failed",
    "payout.returned",
    "payout.cancelled",
    "order.*",
    "bank_item.linked",
    "bank_item.health_changed",
    "bank_item.removed",
    "transactions.synced",
    "balance.updated",
    "provider.#",
)


def matches(pattern: str, routing_key: str) -> bool:
    """A topic exchange's rule: `*` is one word, `#` any number of them, none included."""
    return _matches(pattern.split("."), routing_key.split("."))


def _matches(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in {"*", words[0]} and _matches(pattern[1:], words[1:])


def queue_arguments(queue: Queue) -> dict[str, Any]:
    """A full queue refuses publishers, never drops; dead letters are handed on with confirms."""
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
        "x-dead-letter-routing-key": queue.name,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def dead_queue_arguments() -> dict[str, Any]:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": _NO_DELIVERY_LIMIT,
        "x-overflow": "reject-publish",
    }


def retry_queue_arguments(delay_seconds: float) -> dict[str, Any]:
    """After the delay the message returns, through the default exchange, to the queue that its
    routing key names. One fixed delay a queue: per-message delays block behind each other."""
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": round(delay_seconds * 1000),
        "x-dead-letter-exchange": "",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def journal_arguments() -> dict[str, Any]:
    return dict(_JOURNAL_ARGUMENTS)


def replays_arguments() -> dict[str, Any]:
    return dict(_REPLAYS_ARGUMENTS)


def queue(name: str) -> Queue:
    """The queue of this name. Raises `StopIteration` for a name that is not on this page."""
    return next(each for each in QUEUES if each.name == name)

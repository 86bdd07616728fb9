"""Exchanges, queues and bindings of the complete system, as data.

A message published to a domain exchange goes to the journal and to each queue bound to its type, a
scheduled job only to its service's queue. A failed message goes to a `retry.<delay>` queue and from
there back to its own queue; when its attempts are exhausted, or the error is permanent, it goes to
`<queue>.dead`.
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

# Scheduled jobs that are due. A clock's tick is no fact of the domain, and the journal would
# consist of ticks, so it does not record this exchange.
JOBS: Final = "jobs"

# Publish here with a queue's name as the routing key.
DEAD_LETTER_EXCHANGE: Final = "dead-letters"
# Exchange to whose queues, named after it, every declaration sends a message; the name of each has
# the hash of the topology that was declared last.
DECLARED: Final = "paybus.declared"

# The broker dead-letters through the exchange above, services through this one. Like the two below
# it is a topic exchange: a login can be limited to some of its routing keys, those of the service's
# own queues.
GIVEN_UP: Final = "given-up"

# Publish here with a queue's name as the routing key to copy an event from the journal to it.
REFILLS: Final = "refills"

# Publish here with a stream's name as the routing key to mark the stream's present end.
MARKS: Final = "stream-marks"

# Publish to `retries.<wait>` with a queue's name as the routing key; after the wait the message
# goes to that queue.
RETRIES: Final = "retries"

# Stream of every message published to a domain exchange.
JOURNAL: Final = "journal"
JOURNAL_DAYS: Final = 7
_JOURNAL_ARGUMENTS: Final = {
    "x-queue-type": "stream",
    "x-max-age": f"{JOURNAL_DAYS}D",
    "x-max-length-bytes": 10_000_000_000,
    "x-stream-max-segment-size-bytes": 50_000_000,
}

# Publish here with a queue's name as the routing key to send a dead letter, or an event of the
# journal, to that queue again. A publish reaches the queue and this stream, from which the
# successor of a crashed operations worker reads what was sent.
REPLAYS: Final = "replays"
_REPLAYS_ARGUMENTS: Final = {
    "x-queue-type": "stream",
    "x-max-age": "1D",
    "x-max-length-bytes": 2_000_000_000,
    "x-stream-max-segment-size-bytes": 50_000_000,
}

# After this many deliveries without an outcome (the worker crashed each time) the broker
# dead-letters the message. Explicit because the default differs by version: none in RabbitMQ 3.10,
# 20 from 4.0.
DELIVERY_LIMIT: Final = 20

# A dead letter has no further destination: at RabbitMQ 4's default limit the broker would drop it.
_NO_DELIVERY_LIMIT: Final = 1_000_000_000


@dataclass(frozen=True)
class Binding:
    exchange: str
    pattern: str


@dataclass(frozen=True)
class Queue:
    """Quorum queue with one consuming service; it always has a `<name>.dead` queue."""

    name: str
    bindings: tuple[Binding, ...] = ()

    @property
    def dead(self) -> str:
        return f"{self.name}.dead"

    def takes(self, exchange: str, routing_key: str) -> bool:
        """Return whether a message with this exchange and routing key is routed to this queue."""
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
            Binding("payments", "payment.linked"),
            Binding("payments", "refund.reported"),
            Binding("payments", "payment.duplicated"),
            Binding("payments", "checkout.completed"),
            Binding("subscriptions", "provider_subscription.*"),
            Binding("subscriptions", "provider_customer.updated"),
            Binding("subscriptions", "provider_customer.deleted"),
        ),
    ),
    Queue("subscription.refunds", (Binding("payments", "refund.requested"),)),
    Queue("subscription.commands", (Binding("subscriptions", "billing_command.resume"),)),
    Queue("subscription.jobs", (Binding(JOBS, "job.run.subscription"),)),
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
    Queue("provisioning.jobs", (Binding(JOBS, "job.run.provisioning"),)),
    # One queue per priority, each with its own consumers: an urgent payout never waits behind
    # others.
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
    Queue("payouts.jobs", (Binding(JOBS, "job.run.payouts"),)),
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
    Queue("bank-sync.jobs", (Binding(JOBS, "job.run.bank_sync"),)),
    Queue(
        "orders.payments",
        (
            Binding("payments", "checkout.status_changed"),
            Binding("payments", "checkout.reversed"),
            Binding("payments", "refund.completed"),
        ),
    ),
    Queue("orders.jobs", (Binding(JOBS, "job.run.orders"),)),
    Queue("operations.outcomes", (Binding("operations", "replay.items_completed"),)),
    # Of its own: version 0.2.0, to which an operator may go back, can't handle these events.
    Queue(
        "operations.completions",
        (
            Binding("provisioning", "organization.provisioned"),
            Binding("provisioning", "organization.suspended"),
            Binding("payouts", "payout.paid"),
            Binding("payouts", "payout.cancelled"),
        ),
    ),
    Queue("operations.jobs", (Binding(JOBS, "job.run.operations"),)),
)

# Bindings of earlier versions, which a broker retains until they are removed.
RETIRED_BINDINGS: Final = (
    ("subscription.billing", Binding("payments", "payment.*")),
    ("subscription.billing", Binding("payments", "checkout.*")),
)

# Authentic webhooks that can't be understood: there is not a queue, only its dead-letter queue.
WEBHOOKS: Final = Queue("webhook-gateway.webhooks")

# Types that deliberately have no queue: they are for the journal only.
JOURNAL_ONLY: Final = (
    "subscription.renewed",
    "subscription.past_due",
    "subscription.plan_changed",
    "subscription.expiring",
    "subscription.expired",
    "organization.failed",
    "payout.submitted",
    "payout.failed",
    "payout.returned",
    "order.*",
    "bank_item.linked",
    "bank_item.health_changed",
    "bank_item.removed",
    "transactions.synced",
    "balance.updated",
    "provider.#",
)


def matches(pattern: str, routing_key: str) -> bool:
    """Match as a topic exchange does: `*` is one word, `#` is any number of words, including
    none."""
    return _matches(pattern.split("."), routing_key.split("."))


def _matches(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in {"*", words[0]} and _matches(pattern[1:], words[1:])


def queue_arguments(queue: Queue) -> dict[str, Any]:
    """Return arguments of a queue that rejects publishes when full, never drops messages, and
    dead-letters with publisher confirms."""
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
    """Return the arguments of a retry queue with one fixed delay.

    After the delay the message returns, through the default exchange, to the queue that its routing
    key names. Messages with different delays in one queue would block one another.
    """
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
    """Return the queue of this name. Raise `StopIteration` for an unknown name."""
    return next(each for each in QUEUES if each.name == name)

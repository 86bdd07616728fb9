"""Every metric that common code keeps, in one place. Labels have few values: never an id."""

from prometheus_client import Counter, Gauge, Histogram

published = Counter("paybus_published_total", "Publishes by outcome.", ["exchange", "outcome"])

consumed = Counter(
    "paybus_consumed_total",
    "Messages by outcome: done, duplicate, retried, deferred, dead_lettered.",
    ["queue", "outcome"],
)

handling_seconds = Histogram(
    "paybus_handling_seconds",
    "Time to handle a batch (transactional) or a message (effectful).",
    ["queue"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)

event_age_seconds = Histogram(
    "paybus_event_age_seconds",
    "From when an event was recorded to when its effect was committed.",
    ["queue"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300, 3600),
)

relayed = Counter("paybus_outbox_relayed_total", "Outbox rows published and removed.")

outbox_oldest_seconds = Gauge(
    "paybus_outbox_oldest_seconds", "Age of the oldest row that waits in the outbox; 0 when empty."
)

inbox_removed = Counter("paybus_inbox_removed_total", "Inbox rows removed because of their age.")

refilled = Counter(
    "paybus_refilled_total", "Events copied from the journal into a queue that was lost.", ["queue"]
)

scheduler_ticks = Counter("paybus_scheduler_ticks_total", "Job messages written.", ["job"])

broker_connected = Gauge("paybus_broker_connected", "1 while the connection to RabbitMQ is open.")

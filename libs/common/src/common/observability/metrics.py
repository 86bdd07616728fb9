"""All metrics of common code, in one place. Labels have few values: never an id."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram
from pydantic import BaseModel

published = Counter(
    "paybus_messages_published_total", "Publish attempts by outcome.", ["exchange", "outcome"]
)

consumed = Counter(
    "paybus_messages_consumed_total",
    "Messages consumed, by outcome: done, duplicate, retried, deferred, dead_lettered.",
    ["queue", "outcome"],
)

retries = Counter(
    "paybus_message_retries_total",
    "Messages that failed and will be retried.",
    ["queue", "attempt"],
)

event_loop_held_seconds = Histogram(
    "paybus_event_loop_held_seconds",
    "How long one turn of the event loop blocked all other tasks, in CPU time of the thread, "
    "sampled 20 times a second.",
    buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1, 5),
)

handling_seconds = Histogram(
    "paybus_handler_duration_seconds",
    "Time to handle a batch (transactional) or a message (effectful).",
    ["queue"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)

event_age_seconds = Histogram(
    "paybus_event_latency_seconds",
    "Time from the recording of an event to the commit of its effect.",
    ["queue"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300, 3600),
)

oldest_message_seconds = Gauge(
    "paybus_consumer_oldest_message_age_seconds",
    "Age of the oldest message that a consumer holds and has not completed; 0 if it holds "
    "none. Retried and replayed messages count from their delivery.",
    ["queue"],
)

relayed = Counter("paybus_outbox_relayed_total", "Outbox rows published and removed.")

outbox_oldest_seconds = Gauge(
    "paybus_outbox_oldest_event_age_seconds",
    "Age of the oldest pending row in the outbox; 0 if the outbox is empty.",
)

outbox_events = Gauge(
    "paybus_outbox_pending_events", "Events that are committed but not yet published to the broker."
)

outbox_set_aside = Gauge(
    "paybus_outbox_set_aside",
    "Outbox rows that the broker does not accept: an operator has to inspect them.",
)

outbox_dead_rows = Gauge(
    "paybus_outbox_dead_rows",
    "Removed outbox rows that cannot be vacuumed because a transaction holds an old snapshot.",
)

inbox_rows = Gauge(
    "paybus_inbox_rows",
    "Rows of the inbox, as estimated by PostgreSQL; 0 before the first estimate.",
)

pool_in_use = Gauge("paybus_database_pool_in_use", "Connections of the pool that are in use.")

pool_size = Gauge("paybus_database_pool_size", "Maximum number of connections in the pool.")

inbox_removed = Counter(
    "paybus_inbox_pruned_rows_total", "Inbox rows removed because of their age."
)

refilled = Counter(
    "paybus_queue_recovered_events_total",
    "Events copied from the journal into a queue that had been lost.",
    ["queue"],
)

scheduler_ticks = Counter("paybus_jobs_enqueued_total", "Runs of scheduled jobs enqueued.", ["job"])

schedule_overdue_seconds = Gauge(
    "paybus_job_overdue_seconds",
    "How long a scheduled job has been due without being enqueued; 0 if not due, or paused.",
    ["job"],
)

job_failing = Gauge(
    "paybus_job_last_run_failed", "1 if the last run of a scheduled job failed, else 0.", ["job"]
)

job_runs = Counter(
    "paybus_job_runs_total", "Runs of scheduled jobs by outcome.", ["job", "outcome"]
)

clock_ahead_seconds = Gauge(
    "paybus_clock_ahead_seconds",
    "How far this machine's clock is ahead of the database's; negative if it is behind.",
)

secret_age_seconds = Gauge(
    "paybus_secret_file_age_seconds",
    "Age of the file that a setting names: accounts, endpoints, keys.",
    ["setting"],
)

broker_connected = Gauge(
    "paybus_broker_connected",
    "1 while the connection to RabbitMQ is open, for publishing or consuming; processes "
    "without a connection have no series.",
    ["purpose"],
)


def watch_files(settings: BaseModel) -> None:
    """Export the ages of the files that the settings name."""

    def age(path: Path) -> float:
        try:
            return max(0.0, time.time() - path.stat().st_mtime)
        except OSError:
            return float("nan")

    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Path) and value.is_file():
            gauge = secret_age_seconds.labels(name)
            gauge.set_function(lambda path=value: age(path))  # type: ignore[misc]

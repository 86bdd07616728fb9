"""All metrics of common code, in one place. Labels have few values: never an id."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram
from pydantic import BaseModel

published = Counter(
    "paybus_messages_published_total", "Publishes by outcome.", ["exchange", "outcome"]
)

consumed = Counter(
    "paybus_messages_consumed_total",
    "Messages by outcome: done, duplicate, retried, deferred, dead_lettered.",
    ["queue", "outcome"],
)

retries = Counter(
    "paybus_message_retries_total",
    "Messages that failed and will be tried again.",
    ["queue", "attempt"],
)

event_loop_held_seconds = Histogram(
    "paybus_event_loop_held_seconds",
    "For how long one turn of the event loop kept everything else waiting, looked at 20 times a "
    "second: the thread's own time.",
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
    "From when an event was recorded to when its effect was committed.",
    ["queue"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 300, 3600),
)

oldest_message_seconds = Gauge(
    "paybus_consumer_oldest_message_age_seconds",
    "How long the oldest message that a consumer holds has waited for its effect; 0 without one. "
    "Retries and what is sent again count from their delivery.",
    ["queue"],
)

relayed = Counter("paybus_outbox_relayed_total", "Outbox rows published and removed.")

outbox_oldest_seconds = Gauge(
    "paybus_outbox_oldest_event_age_seconds",
    "Age of the oldest row that waits in the outbox; 0 when empty.",
)

outbox_events = Gauge(
    "paybus_outbox_pending_events", "Events that are committed and not yet with the broker."
)

outbox_set_aside = Gauge(
    "paybus_outbox_set_aside", "Outbox rows that no broker takes: somebody has to look at them."
)

outbox_dead_rows = Gauge(
    "paybus_outbox_dead_rows",
    "Rows of the outbox that are removed and can't be cleared away: somebody holds a snapshot.",
)

inbox_rows = Gauge(
    "paybus_inbox_rows", "Rows of the inbox, as PostgreSQL estimates them; 0 before it has."
)

pool_in_use = Gauge("paybus_database_pool_in_use", "Connections of the pool that are taken.")

pool_size = Gauge("paybus_database_pool_size", "Connections that the pool may have.")

inbox_removed = Counter(
    "paybus_inbox_pruned_rows_total", "Inbox rows removed because of their age."
)

refilled = Counter(
    "paybus_queue_recovered_events_total",
    "Events copied from the journal into a queue that was lost.",
    ["queue"],
)

scheduler_ticks = Counter("paybus_jobs_enqueued_total", "Job messages written.", ["job"])

schedule_overdue_seconds = Gauge(
    "paybus_job_overdue_seconds",
    "How long a scheduled job should have been ordered; 0 when it is not due, or paused.",
    ["job"],
)

job_failing = Gauge(
    "paybus_job_last_run_failed", "1 while a scheduled job's last run failed.", ["job"]
)

job_runs = Counter(
    "paybus_job_runs_total", "Runs of scheduled jobs by outcome.", ["job", "outcome"]
)

clock_ahead_seconds = Gauge(
    "paybus_clock_ahead_seconds",
    "How far this machine's clock is ahead of the database's; negative: behind.",
)

secret_age_seconds = Gauge(
    "paybus_secret_file_age_seconds",
    "How long ago the file that a setting names was written: accounts, endpoints, keys.",
    ["setting"],
)

broker_connected = Gauge(
    "paybus_broker_connected",
    "1 while the connection to RabbitMQ is open, for publishing or consuming; processes without "
    "one have none.",
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

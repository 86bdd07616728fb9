"""The operations service's own metrics."""

from prometheus_client import Counter, Gauge

open_letters = Gauge("paybus_dead_letters_open", "Open dead letters by queue.", ["queue"])
replayed = Counter("paybus_replayed_messages_total", "Messages replayed.")
outcomes = Counter("paybus_replay_outcomes_total", "Replayed messages by outcome.", ["outcome"])
queue_messages = Gauge("paybus_queue_messages", "Messages waiting in a queue.", ["queue"])
queue_consumers = Gauge("paybus_queue_consumers", "Consumers of a queue.", ["queue"])

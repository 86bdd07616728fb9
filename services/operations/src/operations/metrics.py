"""What operators' service measures of itself."""

from prometheus_client import Counter, Gauge

open_letters = Gauge("paybus_dead_letters_open", "Dead letters that nobody has settled.", ["queue"])
replayed = Counter("paybus_replayed_messages_total", "Messages that were sent again.")
outcomes = Counter("paybus_replay_outcomes_total", "What became of replayed messages.", ["outcome"])
queue_messages = Gauge("paybus_queue_messages", "Messages that wait in a queue.", ["queue"])
queue_consumers = Gauge("paybus_queue_consumers", "Consumers of a queue.", ["queue"])

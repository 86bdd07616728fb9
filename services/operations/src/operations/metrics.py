"""What operators' service measures of itself."""

from prometheus_client import Counter, Gauge

open_letters = Gauge("paybus_dead_letters_open", "Dead letters that nobody has settled.", ["queue"])
replayed = Counter("paybus_replayed_total", "Messages that were sent again.")
outcomes = Counter("paybus_replay_outcomes_total", "What became of replayed messages.", ["outcome"])
journal_lag = Gauge("paybus_journal_lag", "Events of the journal that are not indexed yet.")

"""The service's own metrics."""

from prometheus_client import Counter, Gauge, Histogram

syncs = Counter("paybus_bank_syncs_total", "Syncs that ended.", ["outcome"])
transactions = Counter(
    "paybus_bank_transactions_total", "Transactions that syncs wrote.", ["change"]
)
restarts = Counter(
    "paybus_bank_sync_restarts_total", "Updates begun anew because the data changed meanwhile."
)
calls = Histogram(
    "paybus_bank_provider_request_duration_seconds", "Calls of the provider.", ["operation"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30),
)  # fmt: skip
items = Gauge("paybus_bank_items", "Items by health.", ["health"])
open_syncs = Gauge("paybus_bank_syncs_open", "Syncs that are queued or running.", ["status"])
oldest_sync = Gauge("paybus_bank_oldest_sync_age_seconds", "Since when the oldest one waits.")

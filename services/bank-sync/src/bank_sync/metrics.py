"""The service's own metrics."""

from prometheus_client import Counter, Gauge, Histogram

syncs = Counter("paybus_bank_syncs_total", "Finished syncs by outcome.", ["outcome"])
transactions = Counter(
    "paybus_bank_transactions_total", "Transactions written by syncs, by change.", ["change"]
)
restarts = Counter(
    "paybus_bank_sync_restarts_total", "Sync reads restarted because the data changed meanwhile."
)
calls = Histogram(
    "paybus_bank_provider_request_duration_seconds", "Duration of calls to the provider.",
    ["operation"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30),
)  # fmt: skip
items = Gauge("paybus_bank_items", "Items by health.", ["health"])
open_syncs = Gauge("paybus_bank_syncs_open", "Queued and running syncs by status.", ["status"])
oldest_sync = Gauge(
    "paybus_bank_oldest_sync_age_seconds", "Age of the oldest queued or running sync."
)

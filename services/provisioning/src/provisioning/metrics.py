"""The provisioning service's own metrics."""

from prometheus_client import Counter, Gauge

failure_ratio = Gauge(
    "paybus_provisioning_failure_ratio", "Failed attempts over all, in the last half hour."
)

integrations_waiting = Gauge(
    "paybus_integrations_waiting",
    "Customers with a right to an organization that can't be created yet, by status.",
    ["status"],
)
integrations_oldest_seconds = Gauge(
    "paybus_integrations_oldest_waiting_seconds",
    "How long the one that waits longest has not changed, by status.",
    ["status"],
)
operations = Counter(
    "paybus_provisioning_operations_total", "Operations by outcome.", ["operation", "outcome"]
)

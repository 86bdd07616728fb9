"""The provisioning service's own metrics."""

from prometheus_client import Counter, Gauge

failure_ratio = Gauge(
    "paybus_provisioning_failure_ratio", "Share of attempts that failed in the last half hour."
)

integrations_waiting = Gauge(
    "paybus_integrations_waiting",
    "Customers entitled to an organization that cannot be created yet, by status.",
    ["status"],
)
integrations_oldest_seconds = Gauge(
    "paybus_integrations_oldest_waiting_seconds",
    "Time since the longest-waiting customer's integration last changed, by status.",
    ["status"],
)
operations = Counter(
    "paybus_provisioning_operations_total",
    "Provisioning operations by outcome.",
    ["operation", "outcome"],
)

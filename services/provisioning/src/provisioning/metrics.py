"""The provisioning service's own metrics."""

from prometheus_client import Counter, Gauge

failure_ratio = Gauge(
    "paybus_provisioning_failure_ratio", "Failed attempts over all, in the last half hour."
)

operations = Counter(
    "paybus_provisioning_operations_total", "Operations by outcome.", ["operation", "outcome"]
)

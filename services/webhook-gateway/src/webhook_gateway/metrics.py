"""The gateway's own metrics."""

from prometheus_client import Gauge, Histogram

webhooks = Histogram(
    "paybus_webhook_seconds",
    "Time to answer a webhook, by outcome: published, dead_lettered, refused, unavailable, error.",
    ["provider", "outcome"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5),
)

endpoints_fault = Gauge(
    "paybus_endpoints_fault",
    "1 while the endpoints file can't be used and the one before it stays in force.",
)

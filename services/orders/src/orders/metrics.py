"""Prometheus metrics of the orders service."""

from prometheus_client import Counter, Gauge

changes = Counter("paybus_order_events_total", "Orders by what became of them.", ["change"])
payments = Counter(
    "paybus_order_payments_total", "Money that came for orders, by what it was taken for.",
    ["decision"],
)  # fmt: skip
refunds_waiting = Gauge(
    "paybus_order_refunds_waiting", "Refunds that are not done, by state.", ["state"]
)
refunds_oldest_seconds = Gauge(
    "paybus_order_refunds_oldest_seconds",
    "How long ago the oldest refund that is not done was requested, by state.",
    ["state"],
)
rates_stored = Counter("paybus_exchange_rates_stored_total", "Rates stored.", ["source"])

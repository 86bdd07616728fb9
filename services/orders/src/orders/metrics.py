"""Prometheus metrics of the orders service."""

from prometheus_client import Counter, Gauge

changes = Counter("paybus_order_events_total", "Order events by change.", ["change"])
payments = Counter(
    "paybus_order_payments_total", "Payments received for orders, by decision.",
    ["decision"],
)  # fmt: skip
refunds_waiting = Gauge("paybus_order_refunds_waiting", "Incomplete refunds by state.", ["state"])
refunds_oldest_seconds = Gauge(
    "paybus_order_refunds_oldest_seconds",
    "Age of the oldest incomplete refund, since it was requested, by state.",
    ["state"],
)
rates_stored = Counter("paybus_exchange_rates_stored_total", "Exchange rates stored.", ["source"])

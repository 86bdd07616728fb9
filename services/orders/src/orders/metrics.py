"""What the orders service counts."""

from prometheus_client import Counter

changes = Counter("paybus_orders_changed_total", "Orders by what became of them.", ["change"])
payments = Counter(
    "paybus_order_payments_total", "Money that came for orders, by what it was taken for.",
    ["verdict"],
)  # fmt: skip
rates_stored = Counter("paybus_exchange_rates_stored_total", "Rates stored.", ["source"])

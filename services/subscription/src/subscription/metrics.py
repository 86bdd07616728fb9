"""The subscription service's own metrics."""

from prometheus_client import Counter

checkouts = Counter(
    "paybus_checkouts_total", "Checkouts by what became of them.", ["provider", "outcome"]
)

refunds = Counter("paybus_refunds_total", "Refunds by outcome.", ["provider", "outcome"])

unclaimed = Counter(
    "paybus_payments_unclaimed",
    "Payments that no checkout of this service has asked for.",
    ["provider"],
)

commands = Counter("paybus_billing_commands_total", "Commands by outcome.", ["kind", "outcome"])

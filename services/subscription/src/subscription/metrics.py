"""Prometheus metrics of the subscription service."""

from prometheus_client import Counter

checkouts = Counter("paybus_checkouts_total", "Checkouts by outcome.", ["provider", "outcome"])

refunds = Counter("paybus_refunds_total", "Refunds by outcome.", ["provider", "outcome"])

unclaimed = Counter(
    "paybus_payments_unclaimed",
    "Payments that belong to no checkout of this service.",
    ["provider"],
)

to_return = Counter(
    "paybus_payments_to_return_total",
    "Payments without an effect, which only an operator can refund.",
    ["provider"],
)

for _provider in ("fapshi", "flutterwave", "mtn-momo", "orange-money"):
    to_return.labels(_provider)  # from 0 on, or the first increase would not be seen
    unclaimed.labels(_provider)

commands = Counter(
    "paybus_billing_commands_total", "Billing commands by outcome.", ["kind", "outcome"]
)

"""Metrics of the payouts service. Amounts and ids are never labels."""

from prometheus_client import Counter, Gauge, Histogram

moves = Counter(
    "paybus_payout_transitions_total",
    "Payouts by the state that they came to.",
    ["provider", "state"],
)

calls = Counter(
    "paybus_payout_provider_requests_total",
    "Calls of providers by what became of them: accepted, refused, deferred, unknown; for look-ups "
    "found, not_found, failed.",
    ["provider", "operation", "outcome"],
)

call_seconds = Histogram(
    "paybus_payout_provider_request_duration_seconds",
    "How long providers took to answer.",
    ["provider", "operation"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60),
)

waiting = Gauge("paybus_payouts_open", "Payouts that are not settled, by state.", ["state"])

oldest_seconds = Gauge(
    "paybus_payouts_oldest_in_state_seconds",
    "How long the payout that is longest in this state has been in it.",
    ["state"],
)

unanswered_seconds = Gauge(
    "paybus_payouts_unanswered_seconds",
    "Age of the oldest attempt with an unknown outcome, of payouts that are still open.",
)

discrepancies = Gauge(
    "paybus_payout_discrepancies_open", "Discrepancies of reconciliations that are not resolved."
)

doubled = Counter(
    "paybus_payout_duplicate_transfers_total",
    "Payouts for which the provider lists more than one transfer that moves money.",
    ["provider"],
)

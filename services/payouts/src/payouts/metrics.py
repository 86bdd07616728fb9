"""Metrics of the payouts service. Amounts and ids are never labels."""

from prometheus_client import Counter, Gauge, Histogram

moves = Counter(
    "paybus_payout_transitions_total",
    "State transitions of payouts, by the state reached.",
    ["provider", "state"],
)

calls = Counter(
    "paybus_payout_provider_requests_total",
    "Calls to providers by outcome: accepted, refused, deferred, unknown; for status checks "
    "found, not_found, failed.",
    ["provider", "operation", "outcome"],
)

call_seconds = Histogram(
    "paybus_payout_provider_request_duration_seconds",
    "Duration of calls to providers.",
    ["provider", "operation"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60),
)

waiting = Gauge(
    "paybus_payouts_open", "Payouts that are not in a final state, by state.", ["state"]
)

oldest_seconds = Gauge(
    "paybus_payouts_oldest_in_state_seconds",
    "Longest time that any payout now in this state has been in it.",
    ["state"],
)

unanswered_seconds = Gauge(
    "paybus_payouts_unanswered_seconds",
    "Age of the oldest attempt with an unknown outcome, among open payouts.",
)

discrepancies = Gauge(
    "paybus_payout_discrepancies_open", "Unresolved reconciliation discrepancies."
)

doubled = Counter(
    "paybus_payout_duplicate_transfers_total",
    "Payouts for which the provider lists more than one transfer that moves money.",
    ["provider"],
)

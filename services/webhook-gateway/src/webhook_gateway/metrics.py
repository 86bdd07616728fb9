"""The gateway's own metrics."""

from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

_webhooks = Histogram(
    "paybus_webhook_duration_seconds",
    "Time to respond to a webhook, by outcome: published, spooled, dead_lettered, refused, "
    "limited, unavailable, error.",
    ["provider", "outcome"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5),
)


@lru_cache(maxsize=256)  # looking up the labels takes longer than counting
def webhook(provider: str, outcome: str) -> Histogram:
    return _webhooks.labels(provider, outcome)


not_served = Counter(
    "paybus_webhooks_not_served",
    "Verified webhooks whose account or mode (`kind`) their endpoint does not serve.",
    ["provider", "kind"],
)
for _kind in ("account", "mode"):  # an increase is visible only from an existing 0
    not_served.labels("stripe", _kind)

ready = Gauge(
    "paybus_gateway_ready",
    "1 while webhooks can be accepted: the broker is connected, or a spool has room.",
)

endpoints_fault = Gauge(
    "paybus_endpoints_config_invalid",
    "1 while the endpoints file is invalid and the previous one stays in force.",
)

polls = Counter(
    "paybus_payment_polls_total",
    "Status queries about payments, by result: the payment's status; `charges` if a paid payment "
    "was checked for further charges; `failed` if the query failed.",
    ["provider", "outcome"],
)

recovered = Counter(
    "paybus_payments_recovered_total",
    "Payments that were found to have succeeded without a webhook: by polling or, for Stripe, in"
    " its event list.",
    ["provider"],
)

duplicated = Counter(
    "paybus_payments_duplicated",
    "Further charges of payments that had already succeeded; they must be refunded.",
    ["provider"],
)
duplicated.labels("flutterwave")  # an increase is visible only from an existing 0

watched = Gauge(
    "paybus_pending_payments",
    "Payments whose outcome is still polled.",
    ["provider"],
)

unpollable = Gauge(
    "paybus_unpollable_payments",
    "Payments that cannot be polled: the endpoints file lacks their endpoint or its credentials.",
    ["provider"],
)

spooled = Gauge(
    "paybus_spool_pending_messages", "Messages in the local spool that wait for the broker."
)

spools_damaged = Gauge(
    "paybus_spools_damaged",
    "Spool files that the disk damaged: their messages are not published.",
)

spool_oldest_seconds = Gauge(
    "paybus_spool_oldest_message_age_seconds",
    "How long the oldest message in the local spool has waited.",
)

rate_limited = Counter(
    "paybus_webhooks_rate_limited_total", "Webhooks rejected with 429.", ["provider"]
)

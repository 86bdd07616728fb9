"""Grafana's dashboards, as code: what each shows, and of which figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="prometheus")


@dataclass(frozen=True)
class Panel:
    """`queries` are PromQL by what each line is called."""

    title: str
    unit: str
    queries: Mapping[str, str]


@dataclass(frozen=True)
class Board:
    name: str
    title: str
    panels: Sequence[Panel]


def _quantiles(metric: str, by: str, **labels: str) -> Mapping[str, str]:
    chosen = "{" + ",".join(f'{k}=~"{v}"' for k, v in labels.items()) + "}" if labels else ""
    return {
        f"{{{{{by}}}}} p{number}": (
            f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{chosen}[5m])))"
        )
        for number, share in (("50", 0.5), ("95", 0.95), ("99", 0.99))
    }


def _per_second(metric: str, *by: str, **labels: str) -> Mapping[str, str]:
    chosen = "{" + ",".join(f'{k}=~"{v}"' for k, v in labels.items()) + "}" if labels else ""
    legend = " ".join(f"{{{{{each}}}}}" for each in by)
    return {legend: f"sum by ({', '.join(by)}) (rate({metric}{chosen}[5m]))"}


def _of_queues(service: str) -> Sequence[Panel]:
    """What every service's board begins with."""
    mine = f"{service}[.].*"
    return (
        Panel("Messages handled", "cps", _per_second("paybus_messages_consumed_total", "queue", "outcome", queue=mine)),
        Panel("Event age when its effect is committed", "s", _quantiles("paybus_event_latency_seconds", "queue", queue=mine)),
        Panel("Handling time", "s", _quantiles("paybus_handler_duration_seconds", "queue", queue=mine)),
        Panel("Oldest message at a consumer", "s", {"{{queue}}": f'max by (queue) (paybus_consumer_oldest_message_age_seconds{{queue=~"{mine}"}})'}),
        Panel("Messages waiting", "short", {"{{queue}}": f'max by (queue) (paybus_queue_messages{{queue=~"{mine}"}})'}),
        Panel("Runs of scheduled jobs", "cps", {"{{job}} {{outcome}}": f'sum by (job, outcome) (rate(paybus_job_runs_total{{service="{service}"}}[15m]))'}),
    )  # fmt: skip


BOARDS: Final[Sequence[Board]] = (
    Board("overview", "Paybus: overview", (
        Panel("Webhooks by outcome", "cps", _per_second("paybus_webhook_duration_seconds_count", "outcome")),
        Panel("Webhook response time", "s", _quantiles("paybus_webhook_duration_seconds", "provider")),
        Panel("Availability: error budget burn rate (1 uses it up in 30 days)", "short", {
            "1 h": "paybus:webhooks_available:bad_ratio_1h / 0.001", "6 h": "paybus:webhooks_available:bad_ratio_6h / 0.001"}),
        Panel("Freshness: error budget burn rate (1 uses it up in 30 days)", "short", {
            "1 h": "paybus:events_fresh:bad_ratio_1h / 0.01", "6 h": "paybus:events_fresh:bad_ratio_6h / 0.01"}),
        Panel("Messages handled by service", "cps", _per_second("paybus_messages_consumed_total", "service")),
        Panel("Messages waiting", "short", {"{{queue}}": "max by (queue) (paybus_queue_messages) > 0 or sum(paybus_queue_messages) * 0"}),
        Panel("Open dead letters", "short", {"dead letters": "sum(max by (queue) (paybus_dead_letters_open)) or vector(0)"}),
        Panel("Oldest event in the outbox", "s", {"{{service}}": "max by (service) (paybus_outbox_oldest_event_age_seconds)"}),
        Panel("Open circuit breakers", "short", {"{{system}}": 'max by (system) (paybus_circuit_breaker_state{state="open"})'}),
        Panel("Processes", "short", {"{{service}} {{role}}": 'sum by (service, role) (up{service!="",role!=""})'}),
    )),
    Board("gateway", "Paybus: gateway by provider", (
        Panel("Webhooks", "cps", _per_second("paybus_webhook_duration_seconds_count", "provider", "outcome")),
        Panel("Response time", "s", _quantiles("paybus_webhook_duration_seconds", "provider")),
        Panel("Publishes", "cps", _per_second("paybus_messages_published_total", "exchange", "outcome", service="webhook-gateway")),
        Panel("Spool", "short", {"messages": "sum(paybus_spool_pending_messages)", "oldest, s": "max(paybus_spool_oldest_message_age_seconds)"}),
        Panel("Status queries about payments", "cps", _per_second("paybus_payment_polls_total", "provider", "outcome")),
        Panel("Payments being polled", "short", {"{{provider}}": "max by (provider) (paybus_pending_payments)"}),
        Panel("Payments recovered without a webhook", "short", {"{{provider}}": "sum by (provider) (increase(paybus_payments_recovered_total[1h]))"}),
        Panel("Gateways, and those that can accept webhooks", "short", {"gateways": 'count(up{service="webhook-gateway",role="api"})', "ready": "sum(paybus_gateway_ready)"}),
        Panel("Invalid endpoints file", "short", {"{{role}}": "max by (role) (paybus_endpoints_config_invalid)"}),
        Panel("Age of files with secrets", "s", {"{{setting}}": 'max by (setting) (paybus_secret_file_age_seconds{service="webhook-gateway"})'}),
    )),
    Board("consumers", "Paybus: consumers and queues", (
        Panel("Messages by outcome", "cps", _per_second("paybus_messages_consumed_total", "outcome")),
        Panel("Messages by queue", "cps", _per_second("paybus_messages_consumed_total", "queue")),
        Panel("Event age", "s", _quantiles("paybus_event_latency_seconds", "queue")),
        Panel("Handling time", "s", _quantiles("paybus_handler_duration_seconds", "queue")),
        Panel("Oldest message at a consumer", "s", {"{{queue}}": "max by (queue) (paybus_consumer_oldest_message_age_seconds)"}),
        Panel("Messages waiting", "short", {"{{queue}}": "max by (queue) (paybus_queue_messages)"}),
        Panel("Consumers", "short", {"{{queue}}": 'max by (queue) (paybus_queue_consumers{queue!~"retry[.].*|.*[.]dead"})'}),
        Panel("Share of dead-lettered messages", "percentunit", {"dead letters": '(sum(rate(paybus_messages_consumed_total{outcome="dead_lettered"}[5m])) or vector(0)) / (sum(rate(paybus_messages_consumed_total{outcome=~"done|dead_lettered"}[5m])) > 0 or vector(1))'}),
        Panel("Retries by attempt", "cps", {"{{attempt}}": "sum by (attempt) (rate(paybus_message_retries_total[5m])) or vector(0)"}),
        Panel("Pending outbox events, and inbox rows", "short", {"{{service}} outbox": "max by (service) (paybus_outbox_pending_events)", "{{service}} inbox": "max by (service) (paybus_inbox_rows)"}),
        Panel("Outbox rows relayed", "cps", _per_second("paybus_outbox_relayed_total", "service")),
        Panel("Overdue jobs", "s", {"{{service}} {{job}}": "max by (service, job) (paybus_job_overdue_seconds)"}),
    )),
    Board("subscription", "Paybus: subscription", (
        *_of_queues("subscription"),
        Panel("Checkouts", "cps", _per_second("paybus_checkouts_total", "provider", "outcome")),
        Panel("Billing commands at Stripe", "cps", _per_second("paybus_billing_commands_total", "kind", "outcome")),
        Panel("Refunds", "cps", _per_second("paybus_refunds_total", "provider", "outcome")),
    )),
    Board("provisioning", "Paybus: provisioning", (
        *_of_queues("provisioning"),
        Panel("Provisioning operations", "cps", _per_second("paybus_provisioning_operations_total", "operation", "outcome")),
        Panel("Share of failed operations in the last half hour", "percentunit", {"failed": "max(paybus_provisioning_failure_ratio)"}),
        Panel("Circuit breaker", "short", {"back end": 'max(paybus_circuit_breaker_state{system="backend",state="open"})'}),
    )),
    Board("payouts", "Paybus: payouts", (
        *_of_queues("payouts"),
        Panel("Payouts by state", "cps", _per_second("paybus_payout_transitions_total", "provider", "state")),
        Panel("Payouts that are not in a final state", "short", {"{{state}}": "max by (state) (paybus_payouts_open)"}),
        Panel("Oldest payout by state", "s", {"{{state}}": "max by (state) (paybus_payouts_oldest_in_state_seconds)"}),
        Panel("Calls to providers", "cps", _per_second("paybus_payout_provider_requests_total", "provider", "operation", "outcome")),
        Panel("Providers' response time", "s", _quantiles("paybus_payout_provider_request_duration_seconds", "provider")),
        Panel("Discrepancies and duplicate payouts", "short", {"discrepancies": "max(paybus_payout_discrepancies_open)", "doubled": "sum(paybus_payout_duplicate_transfers_total) or vector(0)"}),
    )),
    Board("bank-sync", "Paybus: bank data", (
        *_of_queues("bank-sync"),
        Panel("Syncs", "cps", _per_second("paybus_bank_syncs_total", "outcome")),
        Panel("Transactions written", "cps", _per_second("paybus_bank_transactions_total", "change")),
        Panel("Plaid's response time", "s", _quantiles("paybus_bank_provider_request_duration_seconds", "operation")),
        Panel("Bank items by health", "short", {"{{health}}": "max by (health) (paybus_bank_items)"}),
        Panel("Open syncs", "short", {"{{status}}": "max by (status) (paybus_bank_syncs_open)", "oldest, s": "max(paybus_bank_oldest_sync_age_seconds)"}),
    )),
    Board("orders", "Paybus: orders", (
        *_of_queues("orders"),
        Panel("Orders", "cps", _per_second("paybus_order_events_total", "change")),
        Panel("Payments received", "cps", _per_second("paybus_order_payments_total", "decision")),
        Panel("Incomplete refunds", "short", {"{{state}}": "max by (state) (paybus_order_refunds_waiting)"}),
        Panel("Exchange rates stored", "short", {"{{source}}": "sum by (source) (paybus_exchange_rates_stored_total)"}),
    )),
    Board("operations", "Paybus: operations", (
        *_of_queues("operations"),
        Panel("Open dead letters", "short", {"{{queue}}": "max by (queue) (paybus_dead_letters_open) or vector(0)"}),
        Panel("Messages replayed", "cps", {"messages": "sum(rate(paybus_replayed_messages_total[5m]))"}),
        Panel("Replayed messages by outcome", "cps", {"{{outcome}}": "sum by (outcome) (rate(paybus_replay_outcomes_total[5m])) or vector(0)"}),
    )),
    Board("broker-and-database", "Paybus: broker and database", (
        Panel("Messages", "short", {"ready": "sum(rabbitmq_queue_messages_ready)", "in hand": "sum(rabbitmq_queue_messages_unacked)"}),
        Panel("Published, confirmed, delivered", "cps", {
            "published": "sum(rate(rabbitmq_global_messages_received_total[5m]))",
            "confirmed": "sum(rate(rabbitmq_global_messages_confirmed_total[5m]))",
            "delivered": "sum(rate(rabbitmq_global_messages_delivered_total[5m]))"}),
        Panel("Connections and channels", "short", {"connections": "sum(rabbitmq_connections)", "channels": "sum(rabbitmq_channels)"}),
        Panel("Memory and its limit", "bytes", {"used": "sum(rabbitmq_process_resident_memory_bytes)", "limit": "sum(rabbitmq_resident_memory_limit_bytes)"}),
        Panel("Free disk space", "bytes", {"free": "min(rabbitmq_disk_space_available_bytes)"}),
        Panel("Database connections in use", "short", {"{{service}} {{role}}": "max by (service, role) (paybus_database_pool_in_use)"}),
        Panel("Share of the pool in use", "percentunit", {"{{service}} {{role}}": "max by (service, role) (paybus_database_pool_in_use) / max by (service, role) (paybus_database_pool_size)"}),
        Panel("Connections to the broker", "short", {"{{service}} {{role}}": "min by (service, role) (paybus_broker_connected)"}),
    )),
)  # fmt: skip


def build(board: Board) -> str:
    """Grafana's JSON of the dashboard."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"paybus-{board.name}")
        .tags(["paybus"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("utc")
    )
    for panel in board.panels:
        drawn: Any = (
            timeseries.Panel()
            .title(panel.title)
            .unit(panel.unit)
            .datasource(SOURCE)
            .height(8)
            .span(12)
            .min(0)
        )
        for legend, query in panel.queries.items():
            drawn.with_target(
                prometheus.Dataquery().expr(query).legend_format(legend).datasource(SOURCE)
            )
        made.with_panel(drawn)
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"

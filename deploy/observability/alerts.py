"""What Prometheus raises an alarm about, and the series that prove it: each alert fires on some, and
stays silent on others (`promtool test rules`).

`severity` is `page` for what can't wait until the morning, else `ticket`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from devstack.processes.system import SERVICES

Series = Mapping[str, str]
"""Series by what they are called, with values in promtool's notation, a minute apart."""

_DAY: Final = 86_400


@dataclass(frozen=True)
class Alert:
    """Fires when `value` is `over` the threshold (or under it) for so long (`lasting`)."""

    name: str
    value: str
    threshold: float
    lasting: str
    severity: Literal["page", "ticket"]
    summary: str
    runbook: str
    fires: Series
    silent: Series
    below: bool = False
    also: str = ""  # a second condition, as `and ...`
    also_fires: Series | None = None  # on these, too
    foreign: bool = False  # by others' metrics, which a demo does not have

    @property
    def expression(self) -> str:
        sign = "<" if self.below else ">"
        return f"({self.value}) {sign} {self.threshold:g}{' ' + self.also if self.also else ''}"


def buckets(name: str, labels: str, bounds: Mapping[str, str]) -> Series:
    """Return the series of a histogram's buckets, by their upper bounds."""
    return {f'{name}_bucket{{{labels},le="{le}"}}': values for le, values in bounds.items()}


_QUICK = buckets(
    "paybus_webhook_duration_seconds", 'provider="stripe",outcome="published"',
    {"0.1": "0+99x120", "2": "0+100x120", "5": "0+100x120", "+Inf": "0+100x120"},
)  # fmt: skip
_SLOW = buckets(
    "paybus_webhook_duration_seconds", 'provider="stripe",outcome="published"',
    {"0.1": "0+10x120", "2": "0+80x120", "5": "0+90x120", "+Inf": "0+100x120"},
)  # fmt: skip
_OURS = 'queue!~"retry[.].*|.*[.]dead"'
PROCESSES: Final = [(service, role) for service in SERVICES for role in ("api", "worker")]
_MISSING = " or ".join(f'absent(up{{service="{s}",role="{r}"}})' for s, r in PROCESSES)
_CONSUMED = "paybus_messages_consumed_total"
# What providers' calls become is handled here first: a duplicate is a call that came again.
_FIRST = 'queue=~"subscription.billing|webhook-gateway.payments|payouts.reports|bank-sync.items"'


def _share(part: str, whole: str, window: str) -> str:
    """Of what happened in the window; nothing of nothing is nothing."""
    return (
        f"(sum(increase({part}[{window}])) or vector(0)) / "
        f"((sum(increase({whole}[{window}])) > 0) or vector(1))"
    )


ALERTS: Final[Sequence[Alert]] = (
    Alert(
        "WebhooksSlow",
        "histogram_quantile(0.95, sum by (le, provider) (rate(paybus_webhook_duration_seconds_bucket[5m])))",
        2, "5m", "ticket", "Webhooks of {{ $labels.provider }} take more than 2 s (p95)",
        "webhooks", _SLOW, _QUICK,
    ),
    Alert(
        "WebhooksVerySlow",
        "histogram_quantile(0.99, sum by (le, provider) (rate(paybus_webhook_duration_seconds_bucket[5m])))",
        4.9, "5m", "page", "Webhooks of {{ $labels.provider }} take 5 s or more (p99): the provider is about to time out",
        "webhooks", _SLOW, _QUICK,
    ),
    Alert(
        "WebhooksRefused",
        _share('paybus_webhook_duration_seconds_count{outcome="refused"}', "paybus_webhook_duration_seconds_count", "15m"),
        0.2, "15m", "ticket", "More than a fifth of the webhooks fail verification: a secret changed, or calls are forged",
        "webhooks",
        {
            'paybus_webhook_duration_seconds_count{outcome="refused"}': "0+50x100",
            'paybus_webhook_duration_seconds_count{outcome="published"}': "0+50x100",
        },
        {
            'paybus_webhook_duration_seconds_count{outcome="refused"}': "0x60 1x50",
            'paybus_webhook_duration_seconds_count{outcome="published"}': "0x100",
        },
        also='and on () sum(increase(paybus_webhook_duration_seconds_count{outcome="refused"}[15m])) > 10',
    ),
    Alert(
        "ProvidersSendAgain",
        _share(f'{_CONSUMED}{{{_FIRST},outcome="duplicate"}}', f'{_CONSUMED}{{{_FIRST},outcome=~"done|duplicate"}}', "30m"),
        0.05, "15m", "ticket", "More than 5 % of providers' webhooks are redelivered: our responses do not reach them",
        "webhooks",
        {
            f'{_CONSUMED}{{queue="subscription.billing",outcome="duplicate"}}': "0+10x100",
            f'{_CONSUMED}{{queue="subscription.billing",outcome="done"}}': "0+50x100",
        },
        {
            f'{_CONSUMED}{{queue="subscription.billing",outcome="duplicate"}}': "0+1x100",
            f'{_CONSUMED}{{queue="subscription.billing",outcome="done"}}': "0+50x100",
        },
    ),
    Alert(
        "WebhooksNotServed",
        "sum by (provider) (increase(paybus_webhooks_not_served_total[1h])) / "
        '(sum by (provider) (increase(paybus_webhook_duration_seconds_count{outcome=~"published|spooled"}[1h])) > 5)',
        0.5, "10m", "ticket", "More than half of the authentic webhooks of {{ $labels.provider }} have no effect: they are of a mode or an account that no endpoint serves",
        "webhooks",
        {
            'paybus_webhooks_not_served_total{provider="stripe",kind="mode"}': "0+9x100",
            'paybus_webhook_duration_seconds_count{provider="stripe",outcome="published"}': "0+10x100",
        },
        {
            'paybus_webhooks_not_served_total{provider="stripe",kind="mode"}': "0+1x100",
            'paybus_webhook_duration_seconds_count{provider="stripe",outcome="published"}': "0+10x100",
        },
    ),
    Alert(
        "EndpointsFileInvalid",
        "max(paybus_endpoints_config_invalid)",
        0, "5m", "ticket", "The endpoints file is invalid: running gateways continue with its previous content, but no gateway can start",
        "webhooks",
        {"paybus_endpoints_config_invalid": "0x10 1x90"},
        {"paybus_endpoints_config_invalid": "0x100"},
    ),
    Alert(
        "MessagesRetried",
        f'sum by (queue) (increase({_CONSUMED}{{outcome="retried"}}[15m])) / '
        f'(sum by (queue) (increase({_CONSUMED}{{outcome=~"done|retried"}}[15m])) > 10)',
        0.5, "10m", "ticket", "More than half of the attempts at {{ $labels.queue }} fail and are retried, though nothing is dead yet",
        "queue-growing",
        {
            f'{_CONSUMED}{{queue="provisioning.organizations",outcome="retried"}}': "0+9x100",
            f'{_CONSUMED}{{queue="provisioning.organizations",outcome="done"}}': "0+1x100",
        },
        {
            f'{_CONSUMED}{{queue="provisioning.organizations",outcome="retried"}}': "0+1x100",
            f'{_CONSUMED}{{queue="provisioning.organizations",outcome="done"}}': "0+9x100",
        },
    ),
    Alert(
        "ActivationFailing",
        _share(f'{_CONSUMED}{{queue="subscription.billing",outcome="dead_lettered"}}', f'{_CONSUMED}{{queue="subscription.billing",outcome=~"done|dead_lettered"}}', "30m"),
        0.01, "5m", "page", "Less than 99 % of reports about payments and subscriptions are applied",
        "dead-letter-replay",
        {
            f'{_CONSUMED}{{queue="subscription.billing",outcome="dead_lettered"}}': "0+2x100",
            f'{_CONSUMED}{{queue="subscription.billing",outcome="done"}}': "0+98x100",
        },
        {f'{_CONSUMED}{{queue="subscription.billing",outcome="done"}}': "0+98x100"},
    ),
    Alert(
        "ProvisioningFailing",
        _share('paybus_provisioning_operations_total{outcome="failed"}', "paybus_provisioning_operations_total", "30m"),
        0.1, "10m", "page", "More than a tenth of the calls to the backend API fail",
        "provisioning-failing",
        {
            'paybus_provisioning_operations_total{operation="create",outcome="failed"}': "0+20x100",
            'paybus_provisioning_operations_total{operation="create",outcome="succeeded"}': "0+80x100",
        },
        {
            'paybus_provisioning_operations_total{operation="create",outcome="failed"}': "0+5x100",
            'paybus_provisioning_operations_total{operation="create",outcome="succeeded"}': "0+95x100",
        },
    ),
    Alert(
        "OrganizationsWaiting",
        "max by (status) (paybus_integrations_oldest_waiting_seconds)",
        1_800, "15m", "ticket", "A customer who paid has had no organization for half an hour: no e-mail address is known",
        "provisioning-failing",
        {'paybus_integrations_oldest_waiting_seconds{status="waiting"}': "1500+60x100"},
        {'paybus_integrations_oldest_waiting_seconds{status="waiting"}': "0x100"},
    ),
    Alert(
        "DatabasePoolBusy",
        "max by (service, role) (avg_over_time(paybus_database_pool_in_use[5m])) "
        "/ max by (service, role) (paybus_database_pool_size)",
        0.8, "10m", "ticket", "{{ $labels.service }} {{ $labels.role }} uses more than 80 % of its connections",
        "database",
        {
            'paybus_database_pool_in_use{service="payouts",role="worker"}': "10x100",
            'paybus_database_pool_size{service="payouts",role="worker"}': "10x100",
        },
        {
            'paybus_database_pool_in_use{service="payouts",role="worker"}': "3x100",
            'paybus_database_pool_size{service="payouts",role="worker"}': "10x100",
        },
    ),
    Alert(
        "QueueGrowing",
        f"max by (queue) (deriv(paybus_queue_messages{{{_OURS}}}[10m]))",
        1, "15m", "ticket", "{{ $labels.queue }} is growing: messages arrive faster than they are consumed",
        "queue-growing",
        {'paybus_queue_messages{queue="payouts.low"}': "0+600x100"},
        {'paybus_queue_messages{queue="payouts.low"}': "600-10x100"},
    ),
    Alert(
        "QueueWithoutConsumer",
        f"max by (queue) (paybus_queue_consumers{{{_OURS}}})",
        1, "5m", "page", "{{ $labels.queue }} has no consumer",
        "dead-consumer",
        {'paybus_queue_consumers{queue="payouts.low"}': "2x10 0x100"},
        {'paybus_queue_consumers{queue="payouts.low"}': "2x100", 'paybus_queue_consumers{queue="payouts.low.dead"}': "0x100"},
        below=True,
    ),
    Alert(
        "QueueMessageTooOld",
        f"max by (queue) (paybus_consumer_oldest_message_age_seconds{{{_OURS}}})",
        300, "2m", "page", "A message that a consumer of {{ $labels.queue }} holds is five minutes old",
        "queue-growing",
        {'paybus_consumer_oldest_message_age_seconds{queue="orders.payments"}': "0+60x100"},
        {'paybus_consumer_oldest_message_age_seconds{queue="orders.payments"}': "2x100", 'paybus_consumer_oldest_message_age_seconds{queue="orders.payments.dead"}': "900x100"},
    ),
    Alert(
        "DeadLettersOpen",
        "sum(max by (queue) (paybus_dead_letters_open)) or vector(0)",
        0, "5m", "ticket", "Messages failed permanently and await an operator",
        "dead-letter-replay",
        {'paybus_dead_letters_open{queue="orders.payments"}': "3x100"},
        {'paybus_dead_letters_open{queue="orders.payments"}': "0x100"},
    ),
    Alert(
        "DeadLettersNotCollected",
        'sum(max by (queue) (paybus_queue_messages{queue=~".*[.]dead"}))',
        0, "10m", "ticket", "Dead letters remain in the broker: the operations service does not collect them",
        "dead-consumer",
        {'paybus_queue_messages{queue="orders.payments.dead"}': "3x100"},
        {'paybus_queue_messages{queue="orders.payments.dead"}': "0x100"},
    ),
    Alert(
        "OutboxLag",
        "max by (service) (paybus_outbox_oldest_event_age_seconds)",
        60, "5m", "page", "Events of {{ $labels.service }} are committed but not published",
        "outbox-lag",
        {'paybus_outbox_oldest_event_age_seconds{service="orders"}': "0+60x100"},
        {'paybus_outbox_oldest_event_age_seconds{service="orders"}': "0.1x100"},
    ),
    Alert(
        "SpoolDamaged",
        "max(paybus_spools_damaged)",
        0, "1m", "page", "A gateway's spool was damaged and set aside: its messages are not published",
        "webhooks",
        {"paybus_spools_damaged": "1x100"},
        {"paybus_spools_damaged": "0x100"},
    ),
    Alert(
        "SpoolAge",
        "max(paybus_spool_oldest_message_age_seconds)",
        120, "3m", "page", "Webhooks wait in a gateway's spool: the broker does not confirm publishes",
        "webhooks",
        {"paybus_spool_oldest_message_age_seconds": "0+60x100"},
        {"paybus_spool_oldest_message_age_seconds": "0x100"},
    ),
    Alert(
        "BrokerUnreachable",
        "min by (service, role) (paybus_broker_connected)",
        1, "3m", "page", "{{ $labels.service }} {{ $labels.role }} has no connection to RabbitMQ",
        "processes",
        {'paybus_broker_connected{service="orders",role="worker"}': "1x5 0x100"},
        {'paybus_broker_connected{service="orders",role="worker"}': "1x100"},
        below=True,
    ),
    Alert(
        "ProcessUnreachable",
        'min by (service, role) (up{service!="",role!=""})',
        1, "5m", "ticket", "A {{ $labels.service }} {{ $labels.role }} does not respond",
        "processes",
        {'up{service="orders",role="worker"}': "1x5 0x100"},
        {'up{service="orders",role="worker"}': "1x100"},
        below=True,
    ),
    Alert(
        "ProcessMissing",
        f'1 - max by (service, role) (up{{service!="",role!=""}}) or {_MISSING} or vector(0)',
        0, "5m", "page", "No {{ $labels.service }} {{ $labels.role }} responds",
        "processes",
        {'up{service="orders",role="api"}': "1x100"},
        {f'up{{service="{service}",role="{role}"}}': "1x100" for service, role in PROCESSES},
        also_fires={f'up{{service="{service}",role="{role}"}}': "0x100" if role == "api" else "1x100" for service, role in PROCESSES},
    ),
    Alert(
        "GatewayAway",
        'count(up{service="webhook-gateway",role="api"} == 1) or vector(0)',
        1, "2m", "page", "No gateway responds: providers receive no 2xx",
        "processes",
        {'up{service="webhook-gateway",role="api"}': "1x10 0x100"},
        {'up{service="webhook-gateway",role="api"}': "1x100"},
        below=True,
    ),
    Alert(
        "QueuesNotWatched",
        "count(paybus_queue_consumers) or vector(0)",
        1, "5m", "page", "No process measures the queues: alerts about queues cannot fire",
        "dead-consumer",
        {"up": "1x100"},
        {'paybus_queue_consumers{queue="payouts.low"}': "2x100"},
        below=True,
    ),
    Alert(
        "CircuitOpen",
        # Again and again: one that opened once is let through on trial half a minute later.
        "max by (system) (max_over_time(paybus_circuit_breaker_state{state='open'}[5m]))",
        0.9, "10m", "ticket", "Nothing is sent to {{ $labels.system }}: it fails or does not respond",
        "processes",
        {'paybus_circuit_breaker_state{system="stripe/default",state="open"}': "0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1x80"},
        {'paybus_circuit_breaker_state{system="stripe/default",state="open"}': "0x80 1 0x30"},
    ),
    Alert(
        "PayoutOutcomeUnknown",
        "max(paybus_payouts_unanswered_seconds) or vector(0)",
        900, "5m", "page", "The outcome of a payout has been unknown for a quarter of an hour",
        "payouts-stuck",
        {"paybus_payouts_unanswered_seconds": "0+60x100"},
        {"paybus_payouts_unanswered_seconds": "30x100"},
    ),
    Alert(
        "PayoutsFailing",
        _share('paybus_payout_transitions_total{state="failed"}', 'paybus_payout_transitions_total{state=~"failed|paid|submitted"}', "1h"),
        0.05, "10m", "ticket", "More than 5 % of payouts are refused by providers",
        "payouts-stuck",
        {
            'paybus_payout_transitions_total{provider="fapshi",state="failed"}': "0+10x120",
            'paybus_payout_transitions_total{provider="fapshi",state="paid"}': "0+90x120",
        },
        {'paybus_payout_transitions_total{provider="fapshi",state="paid"}': "0+90x120"},
    ),
    Alert(
        "PayoutsFailed",
        # The longest wait between two tries is 8 hours.
        'max(paybus_payouts_oldest_in_state_seconds{state="failed"}) or vector(0)',
        36_000, "15m", "ticket", "A payout has failed permanently: only an operator can retry or cancel it",
        "payouts-stuck",
        {'paybus_payouts_oldest_in_state_seconds{state="failed"}': "35000+60x100"},
        {'paybus_payouts_oldest_in_state_seconds{state="failed"}': "600x100"},
    ),
    Alert(
        "RefundsWaiting",
        "max by (state) (paybus_order_refunds_oldest_seconds)",
        3_600, "15m", "ticket", "A refund has been incomplete for more than an hour ({{ $labels.state }})",
        "payments",
        {'paybus_order_refunds_oldest_seconds{state="manual"}': "3000+60x100"},
        {'paybus_order_refunds_oldest_seconds{state="manual"}': "0x100"},
    ),
    Alert(
        "PaymentsUnpollable",
        "sum(paybus_unpollable_payments) or vector(0)",
        0, "15m", "ticket", "Payments cannot be polled: the endpoints file lacks their endpoint or its credentials",
        "payments",
        {'paybus_unpollable_payments{provider="fapshi"}': "2x100"},
        {'paybus_unpollable_payments{provider="fapshi"}': "0x100"},
    ),
    Alert(
        "ProviderGivesNoAnswers",
        '(sum by (provider) (increase(paybus_payment_polls_total{outcome="failed"}[30m])) '
        "or 0 * sum by (provider) (increase(paybus_payment_polls_total[30m]))) / "
        "(sum by (provider) (increase(paybus_payment_polls_total[30m])) > 0)",
        0.5, "15m", "ticket", "{{ $labels.provider }} answers less than half of the status queries about payments: after seven days such a payment counts as expired",
        "payments",
        {
            'paybus_payment_polls_total{provider="fapshi",outcome="failed"}': "0+10x100",
            'paybus_payment_polls_total{provider="mtn-momo",outcome="pending"}': "0+50x100",
        },
        {'paybus_payment_polls_total{provider="fapshi",outcome="pending"}': "0+10x100"},
    ),
    Alert(
        "PaymentUnclaimed",
        # Square's are sales that no checkout began.
        'sum(increase(paybus_payments_unclaimed_total{provider!="square"}[1h])) or vector(0)',
        0, "0m", "ticket", "A payment arrived that belongs to no checkout of this service",
        "payments",
        {'paybus_payments_unclaimed_total{provider="fapshi"}': "0x30 1x100"},
        {'paybus_payments_unclaimed_total{provider="square"}': "0x30 1x100"},
    ),
    Alert(
        "PaymentToReturn",
        "sum(increase(paybus_payments_to_return_total[1h])) or vector(0)",
        0, "0m", "ticket", "A payment for a plan buys nothing: an operator has to refund it",
        "payments",
        {'paybus_payments_to_return_total{provider="fapshi"}': "0x30 1x100"},
        {'paybus_payments_to_return_total{provider="fapshi"}': "0x100"},
    ),
    Alert(
        "PayoutDoubled",
        "sum(increase(paybus_payout_duplicate_transfers_total[1h])) or vector(0)",
        0, "0m", "page", "A provider lists two transfers for one payout",
        "payouts-stop-everything",
        {'paybus_payout_duplicate_transfers_total{provider="fapshi"}': "0x30 1x100"},
        {'paybus_payout_duplicate_transfers_total{provider="fapshi"}': "0x100"},
    ),
    Alert(
        "PaymentDuplicated",
        "sum(increase(paybus_payments_duplicated_total[1h])) or vector(0)",
        0, "0m", "ticket", "A payer was charged twice for one checkout: the second charge must be refunded",
        "payments",
        {'paybus_payments_duplicated_total{provider="flutterwave"}': "0x30 1x100"},
        {'paybus_payments_duplicated_total{provider="flutterwave"}': "0x100"},
    ),
    Alert(
        "ReconciliationDifference",
        "max(paybus_payout_discrepancies_open)",
        0, "15m", "ticket", "A provider's records and our ledger differ",
        "payouts-discrepancy",
        {"paybus_payout_discrepancies_open": "2x100"},
        {"paybus_payout_discrepancies_open": "0x100"},
    ),
    Alert(
        "RefundsFailing",
        '(sum(increase(paybus_refunds_total{outcome="failed"}[6h])) or vector(0)) / clamp_min(sum(increase(paybus_refunds_total[6h])), 10)',
        0.1, "10m", "ticket", "More than a tenth of the refunds fail at the provider",
        "payments",
        {
            'paybus_refunds_total{provider="stripe",outcome="failed"}': "0+1x100",
            'paybus_refunds_total{provider="stripe",outcome="succeeded"}': "0+3x100",
        },
        {
            'paybus_refunds_total{provider="stripe",outcome="failed"}': "0x100",
            'paybus_refunds_total{provider="stripe",outcome="succeeded"}': "0+3x100",
        },
    ),
    Alert(
        "BankLoginsBroken",
        'sum(max by (health) (paybus_bank_items{health="login_required"})) / clamp_min(sum(max by (health) (paybus_bank_items{health!="revoked"})), 20)',
        0.2, "1h", "ticket", "More than a fifth of the linked banks need a new login: an institution may be broken, or have changed its login",
        "bank-institution-broken",
        {'paybus_bank_items{health="login_required"}': "30x100", 'paybus_bank_items{health="healthy"}': "70x100"},
        {'paybus_bank_items{health="login_required"}': "3x100", 'paybus_bank_items{health="healthy"}': "97x100"},
    ),
    Alert(
        "BankSyncsWait",
        "max(paybus_bank_oldest_sync_age_seconds)",
        3600, "10m", "ticket", "A bank's data has been due for a sync for an hour",
        "bank-institution-broken",
        {"paybus_bank_oldest_sync_age_seconds": "0+60x120"},
        {"paybus_bank_oldest_sync_age_seconds": "20x120"},
    ),
    Alert(
        "ScheduleMissed",
        "max by (service, job) (paybus_job_overdue_seconds)",
        300, "5m", "ticket", "The job {{ $labels.job }} of {{ $labels.service }} is due but is not enqueued",
        "schedule-missed",
        {'paybus_job_overdue_seconds{service="orders",job="rates"}': "0+60x100"},
        {'paybus_job_overdue_seconds{service="orders",job="rates"}': "2x100"},
    ),
    Alert(
        "JobFailing",
        "max by (service, job) (paybus_job_last_run_failed)",
        0, "15m", "ticket", "The last run of the job {{ $labels.job }} of {{ $labels.service }} failed",
        "schedule-missed",
        {'paybus_job_last_run_failed{service="orders",job="rates"}': "0x10 1x110"},
        {'paybus_job_last_run_failed{service="orders",job="rates"}': "1 0 1 1 0x116"},
    ),
    Alert(
        "OutboxSetAside",
        "max by (service) (paybus_outbox_set_aside)",
        0, "1m", "ticket", "Events of {{ $labels.service }} are set aside: the broker does not accept them",
        "outbox-lag",
        {'paybus_outbox_set_aside{service="orders"}': "1x100"},
        {'paybus_outbox_set_aside{service="orders"}': "0x100"},
    ),
    Alert(
        "OutboxNotCleared",
        "max by (service) (paybus_outbox_dead_rows)",
        200_000, "15m", "ticket", "Removed outbox rows of {{ $labels.service }} cannot be vacuumed: a transaction holds an old snapshot",
        "outbox-lag",
        {'paybus_outbox_dead_rows{service="orders"}': "0+20000x100"},
        {'paybus_outbox_dead_rows{service="orders"}': "5000x100"},
    ),
    Alert(
        "ClockWrong",
        "max by (service, instance) (abs(paybus_clock_ahead_seconds))",
        30, "5m", "ticket", "The clocks of {{ $labels.instance }} ({{ $labels.service }}) and its database differ by more than half a minute",
        "processes",
        {'paybus_clock_ahead_seconds{service="orders",instance="a"}': "-31x100"},
        {'paybus_clock_ahead_seconds{service="orders",instance="a"}': "1x100"},
    ),
    Alert(
        "SecretRotationDue",
        "max by (service, setting) (paybus_secret_file_age_seconds)",
        180 * _DAY, "1h", "ticket", "The file of the setting {{ $labels.setting }} of {{ $labels.service }} is half a year old: rotate its keys",
        "keys-and-certificates",
        {'paybus_secret_file_age_seconds{service="payouts",setting="auth_jwks_file"}': f"{181 * _DAY}x120"},
        {'paybus_secret_file_age_seconds{service="payouts",setting="auth_jwks_file"}': f"{20 * _DAY}x120"},
    ),
    Alert(
        # In a cluster a Secret's file is as old as its pod; kube-state-metrics knows better.
        "KubernetesSecretOld",
        'time() - max by (secret) (kube_secret_created{namespace="paybus",secret=~".*-(secrets|files)"})',
        180 * _DAY, "1h", "ticket", "The Secret {{ $labels.secret }} is half a year old: rotate its keys",
        "keys-and-certificates",
        {'kube_secret_created{namespace="paybus",secret="payouts-secrets"}': f"{-181 * _DAY}x120"},
        {'kube_secret_created{namespace="paybus",secret="payouts-secrets"}': "0x120", 'kube_secret_created{namespace="paybus",secret="postgres-ca"}': f"{-181 * _DAY}x120"},
        foreign=True,
    ),
    Alert(
        "BackupStale",
        "time() - max(barman_cloud_cloudnative_pg_io_last_available_backup_timestamp)",
        2 * _DAY, "1h", "page", "PostgreSQL has had no backup for two days",
        "database",
        {"barman_cloud_cloudnative_pg_io_last_available_backup_timestamp": f"{-3 * _DAY}x120"},
        {"barman_cloud_cloudnative_pg_io_last_available_backup_timestamp": "0x120"},
        foreign=True,
    ),
    Alert(
        "LogNotArchived",
        'max(cnpg_collector_pg_wal_archive_status{value="ready"})',
        30, "15m", "page", "PostgreSQL's write-ahead log cannot be archived: it accumulates until the disk is full",
        "database",
        {'cnpg_collector_pg_wal_archive_status{value="ready"}': "0+10x120"},
        {'cnpg_collector_pg_wal_archive_status{value="ready"}': "2x120"},
        foreign=True,
    ),
    Alert(
        "CertificateExpires",
        "min by (name) (certmanager_certificate_expiration_timestamp_seconds{name=\"webhooks-tls\"}) - time()",
        14 * _DAY, "1h", "page", "The certificate {{ $labels.name }} expires within two weeks and was not renewed",
        "keys-and-certificates",
        {'certmanager_certificate_expiration_timestamp_seconds{name="webhooks-tls"}': f"{10 * _DAY}x120"},
        {'certmanager_certificate_expiration_timestamp_seconds{name="webhooks-tls"}': f"{60 * _DAY}x120"},
        below=True,
        foreign=True,
    ),
)  # fmt: skip

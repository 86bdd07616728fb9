"""Wiring of the payouts service."""

from datetime import timedelta

import httpx

from common.clients.accounts_file import AccountsInvalid
from common.contracts import topology
from common.db.database import Sessions
from common.messaging.consumer import Consumer
from common.messaging.effect_consumer import EffectfulConsumer
from common.messaging.transactional_consumer import TransactionalConsumer
from common.observability.logging import get_logger
from common.resilience.circuit_store import Circuits
from common.runtime import wiring
from common.runtime.gauge_collector import GaugeCollector
from common.runtime.service import RoleContext, RoleProcess, exit_with_error
from common.security.encryption import SecretBox
from payouts import metrics
from payouts.api import control, legacy, payouts, recipients, reports
from payouts.api.dependencies import OperatorTenant
from payouts.earnings import Earnings
from payouts.execution.executor import PayoutExecutor
from payouts.execution.planner import PlannerConfig
from payouts.execution.status_updates import StatusCheckDelays
from payouts.gauges import measure
from payouts.handlers import Commands, Reports
from payouts.jobs import SERVICE, Jobs
from payouts.ledger.unit_of_work import SOURCE
from payouts.payout_service import PayoutService
from payouts.providers.recipient_details import RecipientDetailsCipher
from payouts.providers.registry import Accounts
from payouts.recipient_service import RecipientService
from payouts.reconciliation.reconciler import Reconciler
from payouts.settings import ApiSettings, PayoutSettings, WorkerSettings, concurrency_of

log = get_logger(__name__)

_REORDER = timedelta(minutes=15)


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    accounts = await _accounts(settings, context, wiring.sessions(engine))
    details = _details(settings)
    return wiring.api(
        "Paybus payouts",
        settings,
        engine,
        [
            recipients.recipients,
            payouts.payouts,
            payouts.batches,
            control.control,
            reports.reports,
            legacy.legacy,
        ],
        service=SERVICE,
        parts=[
            accounts,
            PayoutService(accounts, details, reorder=_REORDER),
            RecipientService(accounts, details),
            OperatorTenant(settings.operator_tenant),
        ],
        has_circuits=True,
        large_bodies=payouts.LARGE_BODIES,
    )


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "payouts-worker")
    consuming = await wiring.consuming(settings, context, messaging, "payouts-worker consumers")
    options = wiring.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = wiring.sessions(engine)
    accounts = await _accounts(settings, context, sessions, Circuits(sessions))
    for account in accounts:
        metrics.doubled.labels(account.provider)  # from 0 on, or the first increase is not seen
        for state in ("submitted", "paid", "failed"):
            metrics.moves.labels(account.provider, state)
    details = _details(settings)
    reorder = timedelta(seconds=settings.payout_requeue_after_seconds)
    times = StatusCheckDelays(
        first_look=timedelta(seconds=settings.payout_status_check_delay_seconds),
        first_poll=timedelta(seconds=settings.payout_status_poll_delay_seconds),
    )
    timeout = timedelta(seconds=settings.provider_timeout_seconds)
    executor = PayoutExecutor(
        sessions, accounts, PlannerConfig(details, timeout, times, context.redact)
    )
    await executor.start()
    context.resources.push_async_callback(executor.stop)
    service = PayoutService(accounts, details, reorder=reorder)
    schedule = Jobs(
        accounts,
        service,
        interval=timedelta(seconds=settings.payouts_interval_seconds),
        reorder=reorder,
    ).schedule()
    commands = Commands(executor, Reconciler(sessions, accounts, details, times))
    status_reports = Reports(times)
    earnings = Earnings(service)
    jobs, scheduler = wiring.jobs(SERVICE, schedule, settings.operator_tenant, options)
    consumers: list[Consumer] = [
        EffectfulConsumer(
            topology.queue(f"payouts.{priority}"),
            commands.do,
            concurrency=concurrency_of(priority, settings),
            **options,
        )
        for priority in settings.payout_queues
    ]
    consumers += [
        TransactionalConsumer(
            topology.queue("payouts.reports"),
            status_reports.by_event(),
            prepare=status_reports.prepare,
            **options,
        ),
        TransactionalConsumer(
            topology.queue("payouts.requests"),
            earnings.by_event(),
            prepare=earnings.prepare,
            # Each event locks balances, then the audit log's head; a second one in the same
            # transaction would lock balances after the head.
            batch=1,
            **options,
        ),
        jobs,
    ]
    tasks = [scheduler, GaugeCollector(sessions, measure)]
    return wiring.worker("Paybus payouts worker", settings, messaging, engine, consumers, tasks)


async def _accounts(
    settings: PayoutSettings,
    context: RoleContext,
    sessions: Sessions,
    circuits: Circuits | None = None,
) -> Accounts:
    http = await context.resources.enter_async_context(
        httpx.AsyncClient(
            timeout=settings.provider_timeout_seconds, limits=httpx.Limits(max_connections=None)
        )
    )
    path = settings.payout_accounts_file
    try:
        return Accounts(path, http, sessions, context.redact, circuits=circuits)
    except AccountsInvalid as error:
        exit_with_error(f"PAYOUT_ACCOUNTS_FILE is wrong: {error}")


def _details(settings: PayoutSettings) -> RecipientDetailsCipher:
    return RecipientDetailsCipher(SecretBox(settings.encryption_keys))

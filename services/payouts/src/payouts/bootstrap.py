"""Wires the payouts service."""

from datetime import timedelta

import httpx

from common.clients.accounts_file import AccountsInvalid
from common.contracts import topology
from common.contracts.event import Event
from common.db.database import Sessions
from common.http.app import create_app
from common.http.resources import secure
from common.http.service_status import status_router
from common.messaging.consumer import Consumer
from common.messaging.effect_consumer import EffectfulConsumer
from common.messaging.transactional_consumer import TransactionalConsumer
from common.observability.logging import get_logger
from common.resilience.circuit_store import Circuits
from common.runtime import wiring
from common.runtime.gauge_collector import GaugeCollector
from common.runtime.service import RoleContext, RoleProcess, Task, exit_with_error
from common.scheduling.api import schedules_router
from common.scheduling.scheduler import Scheduler, job_handler
from common.security.encryption import SecretBox
from payouts import metrics
from payouts.api import payouts as payouts_api
from payouts.api import reports as reports_api
from payouts.earnings import Earnings
from payouts.execution.executor import PayoutExecutor
from payouts.execution.planner import PlannerConfig
from payouts.execution.status_updates import StatusCheckDelays
from payouts.gauges import measure
from payouts.handlers import Reports
from payouts.jobs import Jobs
from payouts.ledger.unit_of_work import SOURCE
from payouts.payout_service import PayoutService
from payouts.providers.recipient_details import RecipientDetailsCipher
from payouts.providers.registry import Accounts
from payouts.reconciliation.reconciler import Reconciler
from payouts.settings import ApiSettings, PayoutSettings, WorkerSettings, concurrency_of

log = get_logger(__name__)

_REORDER = timedelta(minutes=15)


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    sessions = wiring.sessions(engine)
    accounts = await _accounts(settings, context, sessions)
    app = create_app(
        "Paybus payouts", alive=wiring.always_healthy, ready=wiring.database_check(engine)
    )
    secure(app, settings)
    app.state.operating_tenant = settings.operator_tenant
    app.state.large_bodies = {payouts_api.BATCHES}
    app.state.sessions = sessions
    app.state.accounts = accounts
    app.state.service = PayoutService(accounts, _details(settings), reorder=_REORDER)
    for router in (*payouts_api.ROUTERS, reports_api.reports):
        app.include_router(router)
    app.include_router(schedules_router("payouts", settings.operator_tenant))
    app.include_router(status_router(settings.operator_tenant, circuits=True))
    return RoleProcess(app)


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "payouts-worker")
    consuming = await wiring.consuming(settings, context, messaging, "payouts-worker consumers")
    options = wiring.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = wiring.sessions(engine)
    accounts = await _accounts(settings, context, sessions, Circuits(sessions))
    for account in accounts:
        metrics.doubled.labels(account.provider)  # from 0 on, or its first increase is not seen
        for state in ("submitted", "paid", "failed"):
            metrics.moves.labels(account.provider, state)
    details = _details(settings)
    reorder = timedelta(seconds=settings.payout_requeue_after_seconds)
    times = StatusCheckDelays(
        first_look=timedelta(seconds=settings.payout_status_check_delay_seconds),
        first_poll=timedelta(seconds=settings.payout_status_poll_delay_seconds),
    )
    timeout = timedelta(seconds=settings.provider_timeout_seconds)
    submitter = PayoutExecutor(
        sessions, accounts, PlannerConfig(details, timeout, times, context.redact)
    )
    await submitter.start()
    context.resources.push_async_callback(submitter.stop)
    work = Reconciler(sessions, accounts, details, times)
    service = PayoutService(accounts, details, reorder=reorder)
    jobs = Jobs(
        accounts,
        service,
        pause=timedelta(seconds=settings.payouts_interval_seconds),
        reorder=reorder,
    )
    schedule = jobs.schedule()

    async def take(event: Event) -> None:  # type: ignore[type-arg]
        await (work.do(event) if event.type == "payout_work.due" else submitter.process(event))

    reports = Reports(times)
    earnings = Earnings(service)
    consumers: list[Consumer] = [
        EffectfulConsumer(
            topology.queue(f"payouts.{priority}"),
            take,
            concurrency=concurrency_of(priority, settings),
            **options,
        )
        for priority in settings.payout_queues
    ]
    consumers += [
        TransactionalConsumer(
            topology.queue("payouts.reports"),
            reports.by_event(),
            prepare=reports.prepare,
            **options,
        ),
        TransactionalConsumer(
            topology.queue("payouts.requests"),
            earnings.by_event(),
            prepare=earnings.prepare,
            # Each locks balances, then the audit log's head; a second one would do so again.
            batch=1,
            **options,
        ),
        TransactionalConsumer(
            topology.queue("payouts.jobs"),
            {"job.run.payouts": job_handler(sessions, schedule)},
            batch=1,
            **options,
        ),
    ]
    tasks: list[Task] = [
        Scheduler(sessions, service="payouts", tenant=settings.operator_tenant, schedule=schedule),
        GaugeCollector(sessions, measure),
    ]
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

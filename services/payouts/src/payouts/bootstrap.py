"""Wires the payouts service."""

from datetime import timedelta

import httpx

from common import parts
from common.accounts import AccountsInvalid
from common.api import schedules_router, secure
from common.circuits import Circuits
from common.contracts import topology
from common.contracts.event import Event
from common.crypto import Vault
from common.database import Sessions
from common.figures import figures_router
from common.http import create_app
from common.logs import get_logger
from common.measuring import Meter
from common.messaging.consumer import Consumer
from common.messaging.effectful import EffectfulConsumer
from common.messaging.transactional import TransactionalConsumer
from common.scheduler import Scheduler, job_handler
from common.service import Context, Running, Task, refuse
from payouts import api as payouts_api
from payouts import api_reports, metrics
from payouts.accounts import Accounts
from payouts.books import SOURCE
from payouts.deciding import Rules
from payouts.details import Details
from payouts.earning import Earnings
from payouts.handlers import Reports
from payouts.jobs import Jobs
from payouts.measuring import measure
from payouts.ordering import Desk
from payouts.settings import ApiSettings, PayoutSettings, WorkerSettings, concurrency_of
from payouts.settling import Times
from payouts.submitting import Submitter
from payouts.working import Worker

log = get_logger(__name__)

_REORDER = timedelta(minutes=15)


async def api(settings: ApiSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    sessions = parts.sessions(engine)
    accounts = await _accounts(settings, context, sessions)
    app = create_app("Paybus payouts", alive=parts.always_well, ready=parts.database_check(engine))
    secure(app, settings)
    app.state.operating_tenant = settings.tenant
    app.state.large_bodies = {payouts_api.BATCHES}
    app.state.sessions = sessions
    app.state.accounts = accounts
    app.state.desk = Desk(accounts, _details(settings), reorder=_REORDER)
    for router in (*payouts_api.ROUTERS, api_reports.reports):
        app.include_router(router)
    app.include_router(schedules_router("payouts", settings.tenant))
    app.include_router(figures_router(settings.tenant, circuits=True))
    return Running(app)


async def worker(settings: WorkerSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    messaging = await parts.messaging(settings, context, "payouts-worker")
    consuming = await parts.consuming(settings, context, messaging, "payouts-worker consumers")
    options = parts.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = parts.sessions(engine)
    accounts = await _accounts(settings, context, sessions, Circuits(sessions))
    for account in accounts:
        metrics.doubled.labels(account.provider)  # from 0 on, or its first increase is not seen
        for state in ("submitted", "paid", "failed"):
            metrics.moves.labels(account.provider, state)
    details = _details(settings)
    reorder = timedelta(seconds=settings.reorder_seconds)
    times = Times(
        first_look=timedelta(seconds=settings.first_look_seconds),
        first_poll=timedelta(seconds=settings.first_poll_seconds),
    )
    timeout = timedelta(seconds=settings.provider_timeout_seconds)
    submitter = Submitter(sessions, accounts, Rules(details, timeout, times, context.redact))
    await submitter.start()
    context.resources.push_async_callback(submitter.stop)
    work = Worker(sessions, accounts, details, times)
    desk = Desk(accounts, details, reorder=reorder)
    jobs = Jobs(
        accounts,
        desk,
        pause=timedelta(seconds=settings.payouts_pause_seconds),
        reorder=reorder,
    )
    schedule = jobs.schedule()

    async def take(event: Event) -> None:  # type: ignore[type-arg]
        await (work.do(event) if event.type == "payout_work.due" else submitter.go_on(event))

    reports = Reports(times)
    earnings = Earnings(desk)
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
            {"payouts.job_due": job_handler(sessions, schedule)},
            batch=1,
            **options,
        ),
    ]
    tasks: list[Task] = [
        Scheduler(sessions, service="payouts", tenant=settings.tenant, schedule=schedule),
        Meter(sessions, measure),
    ]
    return parts.worker("Paybus payouts worker", settings, messaging, engine, consumers, tasks)


async def _accounts(
    settings: PayoutSettings,
    context: Context,
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
        refuse(f"PAYOUT_ACCOUNTS_FILE is wrong: {error}")


def _details(settings: PayoutSettings) -> Details:
    return Details(Vault(settings.encryption_keys))

"""Wires the operations service."""

from datetime import timedelta

from common.contracts import topology
from common.http.app import create_app
from common.http.resources import secure
from common.http.service_status import status_router
from common.messaging.transactional_consumer import TransactionalConsumer
from common.resilience.cache import Cache
from common.runtime import wiring
from common.runtime.gauge_collector import GaugeCollector
from common.runtime.service import RoleContext, RoleProcess, Task
from common.scheduling.api import schedules_router
from common.scheduling.scheduler import Scheduler, job_handler
from common.security.encryption import SecretBox
from operations.api import dead_letters as operations_api
from operations.api import overview
from operations.console.forms import forms
from operations.console.pages import pages
from operations.dead_letters.collector import DeadLetterCollector
from operations.handlers import HANDLERS
from operations.jobs import SERVICE, Jobs
from operations.monitoring.gauges import measure
from operations.monitoring.journal_indexer import JournalIndexer
from operations.monitoring.queue_monitor import QueueMonitor
from operations.monitoring.service_clients import Services
from operations.replay.payout_guard import PayoutReplayGuard
from operations.replay.runner import ReplayRunner
from operations.service import OperatorService
from operations.settings import ApiSettings, WorkerSettings

_SOURCE = "/operations"


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    app = create_app(
        "Paybus operations", alive=wiring.always_healthy, ready=wiring.database_check(engine)
    )
    secure(app, settings)
    app.state.sessions = wiring.sessions(engine)
    vault = SecretBox(settings.encryption_keys)
    window = timedelta(hours=settings.payout_replay_window_hours)
    payouts_url = str(settings.payouts_url) if settings.payouts_url else None
    app.state.operator_service = OperatorService(
        settings.operator_tenant,
        context.redact,
        vault,
        PayoutReplayGuard(payouts_url, window, vault),
        settings.edit_and_replay_enabled,
    )
    app.state.services = Services(settings.service_urls, settings.gateway_url)
    app.state.signed_out = Cache("signed-out", settings.redis_url)
    context.resources.push_async_callback(app.state.signed_out.close)
    app.state.insecure_cookies = settings.console_insecure_cookies
    routers = (*operations_api.ROUTERS, *overview.ROUTERS, pages, forms)
    for router in routers:
        app.include_router(router)
    app.include_router(schedules_router(SERVICE, settings.operator_tenant))
    app.include_router(status_router(settings.operator_tenant))
    return RoleProcess(app)


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "operations-worker")
    consuming = await wiring.consuming(settings, context, messaging, "operations-worker consumers")
    options = wiring.consumer_options(messaging, consuming, engine, source=_SOURCE)
    sessions = wiring.sessions(engine)
    vault = SecretBox(settings.encryption_keys)
    schedule = Jobs(keep=timedelta(days=settings.dead_letter_retention_days)).schedule()
    consumers = [
        *(
            DeadLetterCollector(queue, vault, **options)
            for queue in (*topology.QUEUES, topology.WEBHOOKS)
        ),
        TransactionalConsumer(topology.queue("operations.outcomes"), HANDLERS, batch=20, **options),
        TransactionalConsumer(
            topology.queue("operations.jobs"),
            {f"job.run.{SERVICE}": job_handler(sessions, schedule)},
            batch=1,
            **options,
        ),
    ]
    tasks: list[Task] = [
        ReplayRunner(
            sessions,
            consuming,
            messaging.publisher,
            vault,
            lease=timedelta(seconds=settings.replay_lease_seconds),
        ),
        JournalIndexer(sessions, consuming),
        QueueMonitor(sessions, consuming, messaging.ladder),
        Scheduler(sessions, service=SERVICE, tenant=settings.operator_tenant, schedule=schedule),
        GaugeCollector(sessions, measure),
    ]
    return wiring.worker("Paybus operations worker", settings, messaging, engine, consumers, tasks)

"""Wires the operations service."""

from datetime import timedelta

from common import parts
from common.api import schedules_router, secure
from common.cache import Cache
from common.contracts import topology
from common.crypto import Vault
from common.figures import figures_router
from common.http import create_app
from common.measuring import Meter
from common.messaging.transactional import TransactionalConsumer
from common.scheduler import Scheduler, job_handler
from common.service import Context, Running, Task
from operations import api as operations_api
from operations import api_overview
from operations.collecting import Collector
from operations.console.forms import forms
from operations.console.pages import pages
from operations.desk import Desk
from operations.handlers import HANDLERS
from operations.jobs import SERVICE, Jobs
from operations.journaling import Indexer
from operations.measuring import measure
from operations.payouts import Payouts
from operations.replaying import Replayer
from operations.services import Services
from operations.settings import ApiSettings, WorkerSettings
from operations.watching import Watcher

_SOURCE = "/operations"


async def api(settings: ApiSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    app = create_app(
        "Paybus operations", alive=parts.always_well, ready=parts.database_check(engine)
    )
    secure(app, settings)
    app.state.sessions = parts.sessions(engine)
    vault = Vault(settings.encryption_keys)
    window = timedelta(hours=settings.payout_window_hours)
    payouts_url = str(settings.payouts_url) if settings.payouts_url else None
    app.state.desk = Desk(
        settings.tenant,
        context.redact,
        vault,
        Payouts(payouts_url, window, vault),
        settings.edit_and_replay,
    )
    app.state.services = Services(settings.service_urls, settings.gateway_url)
    app.state.signed_out = Cache("signed-out", settings.redis_url)
    context.resources.push_async_callback(app.state.signed_out.close)
    app.state.insecure_cookies = settings.console_insecure_cookies
    routers = (*operations_api.ROUTERS, *api_overview.ROUTERS, pages, forms)
    for router in routers:
        app.include_router(router)
    app.include_router(schedules_router(SERVICE, settings.tenant))
    app.include_router(figures_router(settings.tenant))
    return Running(app)


async def worker(settings: WorkerSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    messaging = await parts.messaging(settings, context, "operations-worker")
    consuming = await parts.consuming(settings, context, messaging, "operations-worker consumers")
    options = parts.consumer_options(messaging, consuming, engine, source=_SOURCE)
    sessions = parts.sessions(engine)
    vault = Vault(settings.encryption_keys)
    schedule = Jobs(keep=timedelta(days=settings.keep_days)).schedule()
    consumers = [
        *(Collector(queue, vault, **options) for queue in (*topology.QUEUES, topology.WEBHOOKS)),
        TransactionalConsumer(topology.queue("operations.outcomes"), HANDLERS, batch=20, **options),
        TransactionalConsumer(
            topology.queue("operations.jobs"),
            {f"{SERVICE}.job_due": job_handler(sessions, schedule)},
            batch=1,
            **options,
        ),
    ]
    tasks: list[Task] = [
        Replayer(
            sessions,
            consuming,
            messaging.publisher,
            vault,
            lease=timedelta(seconds=settings.replay_lease_seconds),
        ),
        Indexer(sessions, consuming),
        Watcher(sessions, consuming, messaging.ladder),
        Scheduler(sessions, service=SERVICE, tenant=settings.tenant, schedule=schedule),
        Meter(sessions, measure),
    ]
    return parts.worker("Paybus operations worker", settings, messaging, engine, consumers, tasks)

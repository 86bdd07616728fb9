"""Wires the orders service."""

from datetime import timedelta

import httpx

from common.contracts import topology
from common.http.app import create_app
from common.http.resources import secure
from common.http.service_status import status_router
from common.messaging.transactional_consumer import TransactionalConsumer
from common.runtime import wiring
from common.runtime.gauge_collector import GaugeCollector
from common.runtime.service import RoleContext, RoleProcess
from common.scheduling.api import schedules_router
from common.scheduling.scheduler import Scheduler, job_handler
from common.security.encryption import SecretBox
from orders import handlers
from orders.api import orders as orders_api
from orders.api import rates
from orders.buyers import Buyers
from orders.clients.checkouts import CheckoutStarter
from orders.gauges import measure
from orders.jobs import SERVICE, Jobs
from orders.pricing.rate_sources import sources
from orders.settings import ApiSettings, WorkerSettings
from orders.unit_of_work import SOURCE


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    app = create_app(
        "Paybus orders", alive=wiring.always_healthy, ready=wiring.database_check(engine)
    )
    secure(app, settings)
    app.state.sessions = wiring.sessions(engine)
    app.state.buyers = Buyers(SecretBox(settings.encryption_keys))
    http = await context.resources.enter_async_context(
        httpx.AsyncClient(timeout=settings.provider_timeout_seconds)
    )
    app.state.checkouts = CheckoutStarter(settings.subscription_url, http)
    for router in (*orders_api.ROUTERS, *rates.ROUTERS):
        app.include_router(router)
    app.include_router(schedules_router(SERVICE, settings.operator_tenant))
    app.include_router(status_router(settings.operator_tenant))
    return RoleProcess(app)


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "orders-worker")
    consuming = await wiring.consuming(settings, context, messaging, "orders-worker consumers")
    options = wiring.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = wiring.sessions(engine)
    timeout = settings.rates_timeout_seconds
    http = await context.resources.enter_async_context(httpx.AsyncClient(timeout=timeout))
    jobs = Jobs(
        sources(settings.rates_ecb_url, settings.rates_json_url, http, seconds=timeout),
        pause=timedelta(seconds=settings.orders_interval_seconds),
    )
    schedule = jobs.schedule()
    consumers = [
        TransactionalConsumer(
            topology.queue("orders.payments"),
            handlers.HANDLERS,
            prepare=handlers.prepare,
            **options,
        ),
        TransactionalConsumer(
            topology.queue("orders.jobs"),
            {f"job.run.{SERVICE}": job_handler(sessions, schedule)},
            batch=1,
            **options,
        ),
    ]
    scheduler = Scheduler(
        sessions, service=SERVICE, tenant=settings.operator_tenant, schedule=schedule
    )
    return wiring.worker(
        "Paybus orders worker",
        settings,
        messaging,
        engine,
        consumers,
        tasks=[scheduler, GaugeCollector(sessions, measure)],
    )

"""Wires the orders service."""

from datetime import timedelta

import httpx

from common import parts
from common.api import schedules_router, secure
from common.contracts import topology
from common.figures import figures_router
from common.http import create_app
from common.messaging.transactional import TransactionalConsumer
from common.scheduler import Scheduler, job_handler
from common.service import Context, Running
from orders import api as orders_api
from orders import api_rates, handlers
from orders.changes import SOURCE
from orders.clients.checkouts import CheckoutStarter
from orders.jobs import SERVICE, Jobs
from orders.settings import ApiSettings, WorkerSettings
from orders.sources import sources


async def api(settings: ApiSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    app = create_app("Paybus orders", alive=parts.always_well, ready=parts.database_check(engine))
    secure(app, settings)
    app.state.sessions = parts.sessions(engine)
    http = await context.resources.enter_async_context(
        httpx.AsyncClient(timeout=settings.provider_timeout_seconds)
    )
    app.state.checkouts = CheckoutStarter(settings.subscription_url, http)
    for router in (*orders_api.ROUTERS, *api_rates.ROUTERS):
        app.include_router(router)
    app.include_router(schedules_router(SERVICE, settings.tenant))
    app.include_router(figures_router(settings.tenant))
    return Running(app)


async def worker(settings: WorkerSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    messaging = await parts.messaging(settings, context, "orders-worker")
    consuming = await parts.consuming(settings, context, messaging, "orders-worker consumers")
    options = parts.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = parts.sessions(engine)
    http = await context.resources.enter_async_context(
        httpx.AsyncClient(timeout=settings.rates_timeout_seconds, follow_redirects=True)
    )
    jobs = Jobs(
        sources(settings.rates_ecb_url, settings.rates_json_url, http),
        pause=timedelta(seconds=settings.orders_pause_seconds),
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
            {f"{SERVICE}.job_due": job_handler(sessions, schedule)},
            batch=1,
            **options,
        ),
    ]
    scheduler = Scheduler(sessions, service=SERVICE, tenant=settings.tenant, schedule=schedule)
    return parts.worker(
        "Paybus orders worker", settings, messaging, engine, consumers, tasks=[scheduler]
    )

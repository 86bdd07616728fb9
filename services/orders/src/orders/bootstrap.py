"""Wire the orders service's API and worker."""

from datetime import timedelta

import httpx

from common.contracts import topology
from common.messaging.transactional_consumer import TransactionalConsumer
from common.runtime import wiring
from common.runtime.gauge_collector import GaugeCollector
from common.runtime.service import RoleContext, RoleProcess
from common.security.encryption import SecretBox
from orders import handlers
from orders.api import orders, rates
from orders.buyers import Buyers
from orders.clients.checkouts import CheckoutStarter
from orders.gauges import measure
from orders.jobs import SERVICE, Jobs
from orders.pricing.rate_sources import sources
from orders.settings import ApiSettings, WorkerSettings
from orders.unit_of_work import SOURCE


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    http = await context.resources.enter_async_context(
        httpx.AsyncClient(timeout=settings.provider_timeout_seconds)
    )
    return wiring.api(
        "Paybus orders",
        settings,
        engine,
        [*orders.ROUTERS, *rates.ROUTERS],
        service=SERVICE,
        parts=[
            Buyers(SecretBox(settings.encryption_keys)),
            CheckoutStarter(settings.subscription_url, http),
        ],
    )


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "orders-worker")
    consuming = await wiring.consuming(settings, context, messaging, "orders-worker consumers")
    options = wiring.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = wiring.sessions(engine)
    timeout = settings.rates_timeout_seconds
    http = await context.resources.enter_async_context(httpx.AsyncClient(timeout=timeout))
    schedule = Jobs(
        sources(settings.rates_ecb_url, settings.rates_json_url, http, seconds=timeout),
        interval=timedelta(seconds=settings.orders_interval_seconds),
    ).schedule()
    jobs, scheduler = wiring.jobs(SERVICE, schedule, settings.operator_tenant, options)
    payments = TransactionalConsumer(
        topology.queue("orders.payments"), handlers.HANDLERS, prepare=handlers.prepare, **options
    )
    tasks = [scheduler, GaugeCollector(sessions, measure)]
    return wiring.worker(
        "Paybus orders worker", settings, messaging, engine, [payments, jobs], tasks
    )

"""Wiring of the gateway. Its API has no database: its state is on the broker, or spooled."""

import sqlite3
from datetime import timedelta

from common.clients.accounts_file import AccountsInvalid
from common.contracts import topology
from common.http.app import create_app
from common.messaging.transactional_consumer import TransactionalConsumer
from common.runtime import wiring
from common.runtime.service import RoleContext, RoleProcess, exit_with_error
from webhook_gateway.delivery.durable_publisher import DurablePublisher
from webhook_gateway.delivery.spool import Spool
from webhook_gateway.handlers import Handlers
from webhook_gateway.ingress.app import WebhookApp
from webhook_gateway.ingress.health import EndpointStats, create_router
from webhook_gateway.ingress.rate_limiter import WebhookRateLimiter
from webhook_gateway.polling.health import create_worker_router
from webhook_gateway.polling.poller import PaymentPoller
from webhook_gateway.polling.stripe_backfill import StripeBackfill
from webhook_gateway.providers.endpoint_registry import EndpointRegistry
from webhook_gateway.settings import ApiSettings, EndpointsSettings, WorkerSettings


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    routes = _routes(settings, context)
    messaging = await wiring.messaging(settings, context, "webhook-gateway")
    spool = await _spool(settings, context)
    publisher = DurablePublisher(messaging.broker, messaging.publisher, spool)
    app = create_app(
        "Paybus webhook gateway",
        alive=wiring.broker_alive(messaging.broker),
        ready=publisher.check,
    )
    record = EndpointStats()
    app.include_router(create_router(routes, publisher, record))
    redis = settings.redis_url
    gateway = WebhookApp(
        routes,
        publisher,
        WebhookRateLimiter(redis.get_secret_value() if redis else None),
        record,
        redact=messaging.redact,
        max_body_bytes=settings.max_body_bytes,
        otherwise=app,
    )
    return RoleProcess(gateway, tasks=[routes, gateway.body_timeout], relays=[publisher])


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    routes = _routes(settings, context)
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "webhook-gateway-worker")
    consuming = await wiring.consuming(
        settings, context, messaging, "webhook-gateway-worker consumers"
    )
    asker = PaymentPoller(
        wiring.sessions(engine),
        routes,
        redact=context.redact,
        rate_per_second=settings.payment_polls_per_second,
        burst=settings.payment_poll_burst,
        max_concurrency=settings.concurrency,
        timeout=settings.payment_poll_timeout_seconds,
    )
    healer = StripeBackfill(
        wiring.sessions(engine),
        routes,
        consuming,
        messaging.publisher,
        redact=context.redact,
        grace=timedelta(seconds=settings.stripe_backfill_delay_seconds),
        pause=timedelta(seconds=settings.stripe_backfill_interval_seconds),
    )
    payments = TransactionalConsumer(
        topology.queue("webhook-gateway.payments"),
        Handlers(asker.wake).by_event(),
        **wiring.consumer_options(messaging, consuming, engine, source="/webhook-gateway/worker"),
    )
    return wiring.worker(
        "Paybus webhook gateway worker",
        settings,
        messaging,
        engine,
        [payments],
        tasks=[routes, asker, healer],
        routers=[create_worker_router(asker)],
    )


async def _spool(settings: ApiSettings, context: RoleContext) -> Spool | None:
    if settings.webhook_spool_dir is None:
        return None
    spool = Spool(settings.webhook_spool_dir, most_bytes=settings.gateway_spool_max_bytes)
    try:
        await spool.open()
    except (sqlite3.Error, OSError) as error:
        exit_with_error(f"WEBHOOK_SPOOL_DIR is wrong: {settings.webhook_spool_dir}: {error}")
    context.resources.push_async_callback(spool.close)
    return spool


def _routes(settings: EndpointsSettings, context: RoleContext) -> EndpointRegistry:
    try:
        return EndpointRegistry(settings.endpoints_file, context.redact)
    except AccountsInvalid as error:
        exit_with_error(f"ENDPOINTS_FILE is wrong: {error}")

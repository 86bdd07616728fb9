"""Wires the gateway. Its API has no database: what that answers for is on the broker."""

import sqlite3
from datetime import timedelta

from common import parts
from common.accounts import AccountsInvalid
from common.contracts import topology
from common.http import create_app
from common.messaging.transactional import TransactionalConsumer
from common.service import Context, Running, refuse
from webhook_gateway.api import Gateway
from webhook_gateway.asker import Asker
from webhook_gateway.handlers import Handlers
from webhook_gateway.health import Record, create_router, create_worker_router
from webhook_gateway.limiter import Limiter
from webhook_gateway.outlet import Outlet
from webhook_gateway.routes import Routes
from webhook_gateway.settings import ApiSettings, EndpointsSettings, WorkerSettings
from webhook_gateway.spool import Spool
from webhook_gateway.stripe_healer import StripeHealer


async def api(settings: ApiSettings, context: Context) -> Running:
    routes = _routes(settings, context)
    messaging = await parts.messaging(settings, context, "webhook-gateway")
    spool = await _spool(settings, context)
    outlet = Outlet(messaging.broker, messaging.publisher, spool)
    app = create_app(
        "Paybus webhook gateway",
        alive=parts.broker_alive(messaging.broker),
        ready=outlet.check,
    )
    record = Record()
    app.include_router(create_router(routes, outlet, record))
    redis = settings.redis_url
    gateway = Gateway(
        routes,
        outlet,
        Limiter(redis.get_secret_value() if redis else None),
        record,
        redact=messaging.redact,
        max_body_bytes=settings.max_body_bytes,
        otherwise=app,
    )
    return Running(gateway, tasks=[routes, gateway.patience], relays=[outlet])


async def worker(settings: WorkerSettings, context: Context) -> Running:
    routes = _routes(settings, context)
    engine = await parts.database_engine(settings, context)
    messaging = await parts.messaging(settings, context, "webhook-gateway-worker")
    consuming = await parts.consuming(
        settings, context, messaging, "webhook-gateway-worker consumers"
    )
    asker = Asker(
        parts.sessions(engine),
        routes,
        redact=context.redact,
        per_second=settings.questions_per_second,
        burst=settings.questions_burst,
        at_once=settings.concurrency,
        timeout=settings.question_timeout_seconds,
    )
    healer = StripeHealer(
        parts.sessions(engine),
        routes,
        consuming,
        messaging.publisher,
        redact=context.redact,
        grace=timedelta(seconds=settings.stripe_grace_seconds),
        pause=timedelta(seconds=settings.stripe_pause_seconds),
    )
    payments = TransactionalConsumer(
        topology.queue("webhook-gateway.payments"),
        Handlers(asker.wake).by_event(),
        **parts.consumer_options(messaging, consuming, engine, source="/webhook-gateway/worker"),
    )
    return parts.worker(
        "Paybus webhook gateway worker",
        settings,
        messaging,
        engine,
        [payments],
        tasks=[routes, asker, healer],
        routers=[create_worker_router(asker)],
    )


async def _spool(settings: ApiSettings, context: Context) -> Spool | None:
    if settings.gateway_spool_dir is None:
        return None
    spool = Spool(settings.gateway_spool_dir, most_bytes=settings.gateway_spool_max_bytes)
    try:
        await spool.open()
    except (sqlite3.Error, OSError) as error:
        refuse(f"GATEWAY_SPOOL_DIR is wrong: {settings.gateway_spool_dir}: {error}")
    context.resources.push_async_callback(spool.close)
    return spool


def _routes(settings: EndpointsSettings, context: Context) -> Routes:
    try:
        return Routes(settings.endpoints_file, context.redact)
    except AccountsInvalid as error:
        refuse(f"ENDPOINTS_FILE is wrong: {error}")

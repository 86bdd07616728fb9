"""Wires the gateway. Its API has no database: what that answers for is on the broker."""

from common import parts
from common.contracts import topology
from common.http import create_app
from common.messaging.transactional import TransactionalConsumer
from common.service import Context, Running, refuse
from webhook_gateway.api import Gateway
from webhook_gateway.asker import Asker
from webhook_gateway.endpoints import EndpointsInvalid
from webhook_gateway.handlers import Handlers
from webhook_gateway.routes import Routes
from webhook_gateway.settings import ApiSettings, EndpointsSettings, WorkerSettings


async def api(settings: ApiSettings, context: Context) -> Running:
    routes = _routes(settings, context)
    messaging = await parts.messaging(settings, context, "webhook-gateway")
    app = create_app(
        "Paybus webhook gateway",
        alive=parts.broker_alive(messaging.broker),
        ready=parts.broker_check(messaging.broker),
    )
    gateway = Gateway(
        routes,
        messaging.publisher,
        redact=messaging.redact,
        max_body_bytes=settings.max_body_bytes,
        otherwise=app,
    )
    return Running(gateway, tasks=[routes])


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
        tasks=[routes, asker],
    )


def _routes(settings: EndpointsSettings, context: Context) -> Routes:
    try:
        return Routes(settings.endpoints_file, context.redact)
    except EndpointsInvalid as error:
        refuse(f"ENDPOINTS_FILE is wrong: {error}")

"""Wires the gateway. It has no database: what it answers for is on the broker."""

from common import parts
from common.http import create_app
from common.service import Context, Running, refuse
from webhook_gateway.api import Gateway
from webhook_gateway.endpoints import EndpointsInvalid
from webhook_gateway.routes import Routes
from webhook_gateway.settings import Settings


async def api(settings: Settings, context: Context) -> Running:
    try:
        routes = Routes(settings.endpoints_file, context.redact)
    except EndpointsInvalid as error:
        refuse(f"ENDPOINTS_FILE is wrong: {error}")
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

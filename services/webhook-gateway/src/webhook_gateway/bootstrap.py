"""Wires the gateway. It has no database: what it answers for is on the broker."""

from common import parts
from common.http import create_app
from common.service import Context, Running
from webhook_gateway.api import Gateway
from webhook_gateway.providers.stripe import Stripe
from webhook_gateway.settings import Settings


async def api(settings: Settings, context: Context) -> Running:
    messaging = await parts.messaging(settings, context, "webhook-gateway")
    providers = [
        Stripe(
            secrets=[each.get_secret_value() for each in settings.stripe_webhook_secrets],
            tenant=settings.tenant,
        )
    ]
    app = create_app(
        "Paybus webhook gateway",
        alive=parts.broker_alive(messaging.broker),
        ready=parts.broker_check(messaging.broker),
    )
    gateway = Gateway(
        providers,
        messaging.publisher,
        redact=messaging.redact,
        max_body_bytes=settings.max_body_bytes,
        otherwise=app,
    )
    return Running(gateway)

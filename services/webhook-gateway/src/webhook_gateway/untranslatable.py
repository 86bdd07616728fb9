"""Authentic calls that nobody understands are kept, whole, where people look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from common.contracts.topology import GIVEN_UP, WEBHOOKS
from common.logs import get_logger
from common.messaging import dead_letter
from common.messaging.dead_letter import Failures
from common.redaction import Redactor
from webhook_gateway.providers import Provider, Untranslatable

log = get_logger(__name__)


async def bury(
    publish: Callable[..., Awaitable[object]],
    provider: Provider,
    body: bytes,
    error: Untranslatable,
    redact: Redactor,
) -> None:
    """Publish the body to the dead letters of webhooks. Raises as `publish` does."""
    headers = dead_letter.headers(
        Failures(1, ()).with_error(error, redact),
        queue=WEBHOOKS.name,
        reason="untranslatable",
        error=error,
        redact=redact,
    )
    await publish(
        GIVEN_UP,
        WEBHOOKS.name,
        body,
        headers=headers | {"x-paybus-endpoint": provider.endpoint.path},
        content_type="application/octet-stream",
    )
    log.error(
        "webhook dead-lettered",
        endpoint=provider.endpoint.path,
        dead_letters=WEBHOOKS.dead,
        error=str(error),
    )

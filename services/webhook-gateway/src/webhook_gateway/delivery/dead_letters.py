"""Dead-lettering of authentic calls that cannot be translated: the complete body, for operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from common.contracts.topology import GIVEN_UP, WEBHOOKS
from common.messaging import dead_letter
from common.messaging.dead_letter import FailureHistory
from common.observability.logging import get_logger
from common.observability.redaction import Redactor
from webhook_gateway.providers.base import Provider, UntranslatableWebhook

log = get_logger(__name__)


async def dead_letter_webhook(
    publish: Callable[..., Awaitable[object]],
    provider: Provider,
    body: bytes,
    error: UntranslatableWebhook,
    redact: Redactor,
) -> None:
    """Publish the body to the dead-letter queue of webhooks. Raises what `publish` raises."""
    headers = dead_letter.headers(
        FailureHistory(1, ()).with_error(error, redact),
        queue=WEBHOOKS.name,
        reason="untranslatable",
        error=error,
        redact=redact,
    )
    await publish(
        GIVEN_UP,
        WEBHOOKS.name,
        body,
        headers=headers | {dead_letter.ENDPOINT: provider.endpoint.path},
        content_type="application/octet-stream",
    )
    log.error(
        "webhook_dead_lettered",
        endpoint=provider.endpoint.path,
        dead_letters=WEBHOOKS.dead,
        error=str(error),
    )

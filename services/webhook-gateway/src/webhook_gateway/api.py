"""`POST /webhooks/{provider}`: verify, translate, publish, and only then answer 2xx."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from common.contracts.topology import DEAD_LETTER_EXCHANGE, WEBHOOKS
from common.errors import Invalid, NotFound, TooLarge, Unavailable
from common.logs import get_logger
from common.messaging import dead_letter
from common.messaging.dead_letter import Failures
from common.messaging.publisher import Publisher
from common.redaction import Redactor
from webhook_gateway import metrics
from webhook_gateway.providers import Provider, Untranslatable, VerificationFailed

log = get_logger(__name__)


def routes(
    providers: Sequence[Provider],
    publisher: Publisher,
    *,
    redact: Redactor,
    max_body_bytes: int,
) -> APIRouter:
    router = APIRouter()
    by_name = {provider.name: provider for provider in providers}
    gateway = _Gateway(publisher, redact, max_body_bytes)

    @router.post("/webhooks/{provider}", status_code=200)
    async def receive(provider: str, request: Request) -> Response:
        if provider not in by_name:
            raise NotFound(f"no provider called {provider!r} is served here")
        started = time.perf_counter()
        outcome = "error"
        try:
            outcome = await gateway.take(by_name[provider], request)
        except (Invalid, TooLarge):
            outcome = "refused"
            raise
        except Unavailable:
            outcome = "unavailable"
            raise
        finally:
            metrics.webhooks.labels(provider, outcome).observe(time.perf_counter() - started)
        return Response(status_code=200)

    return router


class _Gateway:
    def __init__(self, publisher: Publisher, redact: Redactor, max_body_bytes: int) -> None:
        self._publisher = publisher
        self._redact = redact
        self._max_body_bytes = max_body_bytes

    async def take(self, provider: Provider, request: Request) -> str:
        """Return `published` or `dead_lettered`, both after the broker's confirm."""
        body = await self._read(request)
        try:
            provider.verify(request.headers, body)
        except VerificationFailed as error:
            log.info("webhook refused", provider=provider.name, reason=str(error))
            raise Invalid(str(error)) from error
        try:
            event = provider.translate(body)
        except Untranslatable as error:
            # The provider would send the same bytes again: keep them, answer 2xx, let people look.
            await self._dead_letter(provider, body, error)
            return "dead_lettered"
        await self._publisher.publish_event(event)
        return "published"

    async def _dead_letter(self, provider: Provider, body: bytes, error: Untranslatable) -> None:
        headers = dead_letter.headers(
            Failures(1, ()).with_error(error, self._redact),
            queue=WEBHOOKS.name,
            reason="untranslatable",
            error=error,
            redact=self._redact,
        )
        await self._publisher.publish(
            DEAD_LETTER_EXCHANGE,
            WEBHOOKS.name,
            body,
            headers=headers | {"x-paybus-provider": provider.name},
            content_type="application/octet-stream",
        )
        log.error(
            "webhook dead-lettered",
            provider=provider.name,
            dead_letters=WEBHOOKS.dead,
            error=str(error),
        )

    async def _read(self, request: Request) -> bytes:
        """The body as it came. Raises `TooLarge` as soon as the limit is passed."""
        too_large = TooLarge(f"a webhook's body may have {self._max_body_bytes} bytes at the most")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_body_bytes:
            raise too_large
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body_bytes:
                raise too_large
        return bytes(body)

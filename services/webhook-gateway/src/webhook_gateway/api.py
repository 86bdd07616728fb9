"""`POST /webhooks/{provider}`: verify, translate, publish, and only then answer 2xx.

Plain ASGI in front of the FastAPI application, which has the health and metrics endpoints: routing,
dependencies and middleware would take as long as all of the work here (docs/performance.md).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from common.contracts.topology import DEAD_LETTER_EXCHANGE, WEBHOOKS
from common.errors import Invalid, NotFound, PaybusError, TooLarge, Unavailable
from common.http import answer_to, answer_to_bug, problem
from common.logs import get_logger
from common.messaging import dead_letter
from common.messaging.dead_letter import Failures
from common.messaging.publisher import Publisher
from common.redaction import Redactor
from webhook_gateway import metrics
from webhook_gateway.providers import Provider, Untranslatable, VerificationFailed

log = get_logger(__name__)

_PATH = "/webhooks/"
_ACCEPTED: tuple[dict[str, Any], ...] = (
    {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]},
    {"type": "http.response.body", "body": b""},
)


class Gateway:
    """The ASGI application: webhooks here, everything else by `otherwise`."""

    def __init__(
        self,
        providers: Sequence[Provider],
        publisher: Publisher,
        *,
        redact: Redactor,
        max_body_bytes: int,
        otherwise: FastAPI,
    ) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._publisher = publisher
        self._redact = redact
        self._max_body_bytes = max_body_bytes
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PATH):
            await self._otherwise(scope, receive, send)
        elif scope["method"] != "POST":
            refused = problem(
                HTTPStatus.METHOD_NOT_ALLOWED, "webhooks are sent by POST", {"Allow": "POST"}
            )
            await refused(scope, receive, send)
        else:
            await self._receive(scope, receive, send)

    async def _receive(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(_PATH)
        provider = self._providers.get(name)
        if provider is None:
            refused = answer_to(NotFound(f"no provider called {name!r} is served here"))
            await refused(scope, receive, send)
            return
        started = time.perf_counter()
        outcome = "error"
        try:
            outcome = await self._take(provider, Headers(scope=scope), receive)
        except PaybusError as error:
            if isinstance(error, Invalid | TooLarge):
                outcome = "refused"
            elif isinstance(error, Unavailable):
                outcome = "unavailable"
            await answer_to(error)(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - logged; the provider sends it again
            await answer_to_bug(error)(scope, receive, send)
        else:
            for message in _ACCEPTED:
                await send(message)
        finally:
            metrics.webhooks.labels(name, outcome).observe(time.perf_counter() - started)

    async def _take(self, provider: Provider, headers: Mapping[str, str], receive: Receive) -> str:
        """Return `published` or `dead_lettered`, both after the broker's confirm."""
        body = await self._read(headers, receive)
        try:
            provider.verify(headers, body)
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

    async def _read(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        """The body as it came. Raises `TooLarge` as soon as the limit is passed."""
        too_large = TooLarge(f"a webhook's body may have {self._max_body_bytes} bytes at the most")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_body_bytes:
            raise too_large
        body: bytes = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Invalid("the caller went away before its body was complete")
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise too_large
            if not message.get("more_body"):
                return body

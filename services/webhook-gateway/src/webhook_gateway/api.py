"""`POST /webhooks/{provider}[/{endpoint}]`: verify, translate, publish, and only then answer 2xx.

Plain ASGI in front of the FastAPI application, which has the health and metrics endpoints: routing,
dependencies and middleware would take as long as all of the work here (docs/performance.md).
"""

from __future__ import annotations

import time
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
from webhook_gateway.routes import Routes

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
        routes: Routes,
        publisher: Publisher,
        *,
        redact: Redactor,
        max_body_bytes: int,
        otherwise: FastAPI,
    ) -> None:
        self._routes = routes
        self._publisher = publisher
        self._redact = redact
        self._max_body_bytes = max_body_bytes
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PATH):
            await self._otherwise(scope, receive, send)
        elif (provider := self._routes.find(scope["path"][len(_PATH) :])) is None:
            refused = answer_to(NotFound(f"no webhooks are served at {scope['path']}"))
            await refused(scope, receive, send)
        elif scope["method"] not in provider.methods:
            allowed = ", ".join(sorted(provider.methods))
            refused = problem(
                HTTPStatus.METHOD_NOT_ALLOWED, f"webhooks come by {allowed}", {"Allow": allowed}
            )
            await refused(scope, receive, send)
        else:
            await self._receive(provider, scope, receive, send)

    async def _receive(
        self, provider: Provider, scope: Scope, receive: Receive, send: Send
    ) -> None:
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
            metrics.webhooks.labels(provider.name, outcome).observe(time.perf_counter() - started)

    async def _take(self, provider: Provider, headers: Headers, receive: Receive) -> str:
        """Return `published` or `dead_lettered`, both after the broker's confirm."""
        body = await self._read(headers, receive)
        try:
            proof = await provider.verify(headers, body)
        except VerificationFailed as error:
            log.info("webhook refused", endpoint=provider.endpoint.path, reason=str(error))
            raise Invalid(str(error)) from error
        try:
            events = provider.translate(body, proof)
        except Untranslatable as error:
            if proof.trust == "none":  # anybody's words: nothing is lost with them
                raise Invalid(str(error)) from error
            # The provider would send the same bytes again: keep them, answer 2xx, let people look.
            await self._dead_letter(provider, body, error)
            return "dead_lettered"
        for event in events:
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
            headers=headers | {"x-paybus-provider": provider.endpoint.path},
            content_type="application/octet-stream",
        )
        log.error(
            "webhook dead-lettered",
            endpoint=provider.endpoint.path,
            dead_letters=WEBHOOKS.dead,
            error=str(error),
        )

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
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

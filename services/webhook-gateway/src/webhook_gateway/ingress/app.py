"""`POST /webhooks/{provider}[/{endpoint}]`: verify, translate, publish, and only then return 2xx.

Plain ASGI in front of the FastAPI application, which has the health and metrics endpoints: routing,
dependencies and middleware would take as long as all of the work here
(docs/explanation/performance.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from common.contracts.event import CONTENT_TYPE, Event
from common.contracts.registry import lookup
from common.errors import (
    Invalid,
    NotFound,
    PaybusError,
    RateLimited,
    TooSlow,
    Unavailable,
)
from common.http.middleware import BODY_SECONDS, TOO_SLOW, HeldBody, read_body
from common.http.problems import internal_error_response, problem, problem_response
from common.observability import tracing
from common.observability.logging import get_logger, ids_of
from common.observability.redaction import Redactor
from webhook_gateway import metrics
from webhook_gateway.delivery.dead_letters import dead_letter_webhook
from webhook_gateway.delivery.durable_publisher import DurablePublisher
from webhook_gateway.ingress.body_timeout import BodyTimeout
from webhook_gateway.ingress.health import EndpointStats
from webhook_gateway.ingress.rate_limiter import WebhookRateLimiter
from webhook_gateway.providers.base import Provider, UntranslatableWebhook, VerificationFailed
from webhook_gateway.providers.endpoint_registry import PREFIX, EndpointRegistry

log = get_logger(__name__)

_HEALTH = "/webhooks/health"
# Providers wait 5 to 10 s.
_SLOW_SECONDS = 2.0
_ACCEPTED: tuple[dict[str, Any], ...] = (
    {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]},
    {"type": "http.response.body", "body": b""},
)


class WebhookApp:
    """The ASGI application: serves webhooks, and passes everything else to `otherwise`.
    `body_timeout` has to run beside it."""

    def __init__(
        self,
        routes: EndpointRegistry,
        publisher: DurablePublisher,
        limiter: WebhookRateLimiter,
        record: EndpointStats,
        *,
        redact: Redactor,
        max_body_bytes: int,
        otherwise: FastAPI,
    ) -> None:
        self._routes = routes
        self._publisher = publisher
        self._limiter = limiter
        self._record = record
        self._redact = redact
        self._max_body_bytes = max_body_bytes
        self._otherwise = otherwise
        self.body_timeout = BodyTimeout(BODY_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if (provider := self._routes.find(path)) is None:
            if not path.startswith(PREFIX) or path == _HEALTH:
                await self._otherwise(scope, receive, send)
                return
            refused = problem_response(NotFound("no webhooks are served at this path"))
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
        outcome, reason = "error", None
        events: Sequence[Event[Any]] = ()
        try:
            await self._limiter.acquire(provider.endpoint.path, provider.rate_limit)
            with HeldBody() as held, tracing.span(f"webhook {provider.name}", kind="server"):
                outcome, events = await self._take(provider, Headers(scope=scope), receive, held)
        except RateLimited as error:
            outcome, reason = "limited", str(error)
            after = {"Retry-After": str(math.ceil(error.retry_after))}
            await problem(HTTPStatus.TOO_MANY_REQUESTS, reason, after)(scope, receive, send)
        except PaybusError as error:
            outcome = "unavailable" if isinstance(error, Unavailable) else "refused"
            reason = str(error)
            await problem_response(error)(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - logged; the provider sends it again
            await internal_error_response(error)(scope, receive, send)
        else:
            for message in _ACCEPTED:
                await send(message)
        finally:
            seconds = time.perf_counter() - started
            self._record.record(provider.endpoint.path, outcome, reason)
            metrics.webhook(provider.name, outcome).observe(seconds)
            _log(provider.endpoint.path, outcome, reason, events, seconds)

    async def _take(
        self, provider: Provider, headers: Headers, receive: Receive, held: HeldBody
    ) -> tuple[str, Sequence[Event[Any]]]:
        """Return `published`, `spooled` or `dead_lettered`, once the call is durable, and its
        events."""
        try:
            reading = read_body(headers, receive, held, most=self._max_body_bytes)
            body = await self.body_timeout.wait(reading)
        except TimeoutError:
            raise TooSlow(TOO_SLOW) from None
        try:
            proof = await provider.verify(headers, body)
        except VerificationFailed as error:
            raise Invalid(str(error)) from error
        try:
            events = provider.translate(body, proof)
        except UntranslatableWebhook as error:
            if proof.trust == "none":  # an unauthenticated body: nothing is lost
                raise Invalid(str(error)) from error
            # A retry would bring the same bytes: dead-letter them for an operator, and return 2xx.
            await dead_letter_webhook(self._publisher.publish, provider, body, error, self._redact)
            return "dead_lettered", ()
        confirmed = True
        for event in events:
            exchange = lookup(event.type).exchange
            confirmed &= await self._publisher.publish(
                exchange, event.type, event.encode(), content_type=CONTENT_TYPE
            )
        return "published" if confirmed else "spooled", events


def _log(
    endpoint: str, outcome: str, reason: str | None, events: Sequence[Event[Any]], seconds: float
) -> None:
    """Write one line for each call; a slow one is a warning. Those above a rate limit are only
    counted: a caller that sends too many must not fill the log."""
    if outcome == "limited":
        return
    write = log.warning if seconds > _SLOW_SECONDS else log.info
    said = {"reason": reason} if reason else {}
    if events:
        said |= ids_of(events[0])
    if len(events) > 1:
        said |= {"further_events": ", ".join(each.id for each in events[1:])}
    write(
        "webhook_received",
        endpoint=endpoint,
        outcome=outcome,
        duration_ms=round(seconds * 1000, 1),
        **said,
    )

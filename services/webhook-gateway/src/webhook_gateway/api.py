"""`POST /webhooks/{provider}[/{endpoint}]`: verify, translate, publish, and only then answer 2xx.

Plain ASGI in front of the FastAPI application, which has the health and metrics endpoints: routing,
dependencies and middleware would take as long as all of the work here (docs/performance.md).
"""

from __future__ import annotations

import math
import time
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from common import tracing
from common.contracts.event import CONTENT_TYPE
from common.contracts.registry import lookup
from common.errors import (
    Invalid,
    NotFound,
    PaybusError,
    RateLimited,
    TooSlow,
    Unavailable,
)
from common.logs import get_logger
from common.middleware import BODY_SECONDS, TOO_SLOW, read_body
from common.problems import answer_to, answer_to_bug, problem
from common.redaction import Redactor
from webhook_gateway import metrics
from webhook_gateway.health import Record
from webhook_gateway.limiter import Limiter
from webhook_gateway.outlet import Outlet
from webhook_gateway.patience import Patience
from webhook_gateway.providers import Provider, Untranslatable, VerificationFailed
from webhook_gateway.routes import Routes
from webhook_gateway.untranslatable import bury

log = get_logger(__name__)

_PATH = "/webhooks/"
_HEALTH = "/webhooks/health"
_ACCEPTED: tuple[dict[str, Any], ...] = (
    {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]},
    {"type": "http.response.body", "body": b""},
)


class Gateway:
    """The ASGI application: webhooks here, everything else by `otherwise`. `patience` is to be run
    beside it."""

    def __init__(
        self,
        routes: Routes,
        outlet: Outlet,
        limiter: Limiter,
        record: Record,
        *,
        redact: Redactor,
        max_body_bytes: int,
        otherwise: FastAPI,
    ) -> None:
        self._routes = routes
        self._outlet = outlet
        self._limiter = limiter
        self._record = record
        self._redact = redact
        self._max_body_bytes = max_body_bytes
        self._otherwise = otherwise
        self.patience = Patience(BODY_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PATH):
            await self._otherwise(scope, receive, send)
        elif (provider := self._routes.find(scope["path"][len(_PATH) :])) is None:
            if scope["path"] == _HEALTH:
                await self._otherwise(scope, receive, send)
                return
            refused = answer_to(NotFound("no webhooks are served at this path"))
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
        try:
            await self._limiter.take(provider.endpoint.path, provider.rate_limit)
            with tracing.span(f"webhook {provider.name}", kind="server"):
                outcome = await self._take(provider, Headers(scope=scope), receive)
        except RateLimited as error:
            outcome, reason = "limited", str(error)
            after = {"Retry-After": str(math.ceil(error.retry_after))}
            await problem(HTTPStatus.TOO_MANY_REQUESTS, reason, after)(scope, receive, send)
        except PaybusError as error:
            outcome = "unavailable" if isinstance(error, Unavailable) else "refused"
            reason = str(error)
            await answer_to(error)(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - logged; the provider sends it again
            await answer_to_bug(error)(scope, receive, send)
        else:
            for message in _ACCEPTED:
                await send(message)
        finally:
            self._record.note(provider.endpoint.path, outcome, reason)
            metrics.webhook(provider.name, outcome).observe(time.perf_counter() - started)

    async def _take(self, provider: Provider, headers: Headers, receive: Receive) -> str:
        """Return `published`, `spooled` or `dead_lettered`: each when the call is safe."""
        try:
            body = await self.patience.wait(read_body(headers, receive, most=self._max_body_bytes))
        except TimeoutError:
            raise TooSlow(TOO_SLOW) from None
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
            await bury(self._outlet.publish, provider, body, error, self._redact)
            return "dead_lettered"
        confirmed = True
        for event in events:
            exchange = lookup(event.type).exchange
            confirmed &= await self._outlet.publish(
                exchange, event.type, event.encode(), content_type=CONTENT_TYPE
            )
        return "published" if confirmed else "spooled"

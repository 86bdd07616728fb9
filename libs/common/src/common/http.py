"""What every HTTP API shares: problem documents, cursors, health and metrics."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import sqlalchemy.exc
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from common import tracing
from common.errors import (
    Busy,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NotYet,
    PaybusError,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Undecided,
    Upstream,
)
from common.logs import get_logger
from common.messaging.connection import describe
from common.messaging.retry import Kind, classify
from common.outside import Refused

log = get_logger(__name__)

Check = Callable[[], Awaitable[str | None]]
"""Returns None when well, else a sentence about what is wrong."""

# The one place where domain errors become HTTP. The first row that fits decides.
_STATUS: tuple[tuple[type[PaybusError], HTTPStatus], ...] = (
    (NotFound, HTTPStatus.NOT_FOUND),
    (Invalid, HTTPStatus.BAD_REQUEST),
    (Conflict, HTTPStatus.CONFLICT),
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (NotYet, HTTPStatus.SERVICE_UNAVAILABLE),
    (Busy, HTTPStatus.CONFLICT),
    (RateLimited, HTTPStatus.SERVICE_UNAVAILABLE),
    (Refused, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Upstream, HTTPStatus.BAD_GATEWAY),
    (Undecided, HTTPStatus.INTERNAL_SERVER_ERROR),
)


def problem(
    status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    """A problem document, RFC 9457."""
    body = {"type": "about:blank", "title": status.phrase, "status": status, "detail": detail}
    return JSONResponse(
        body | more, status, media_type="application/problem+json", headers=dict(headers or {})
    )


def create_app(title: str, *, alive: Check, ready: Check, **options: Any) -> FastAPI:
    """An application with `/healthz`, `/readyz`, `/metrics` and errors as problem documents.

    `alive` fails only when a restart would help; a broker or database that is away makes a process
    not ready, and restarting it would not bring them back.
    """
    app = FastAPI(title=title, **options)
    if tracing.wanted():
        app.add_middleware(tracing.Traced)
    app.add_exception_handler(PaybusError, _on_paybus_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(sqlalchemy.exc.SQLAlchemyError, _on_database_error)
    app.add_exception_handler(Exception, _on_bug)

    async def healthz() -> Response:
        return _verdict(await alive())

    async def readyz() -> Response:
        return _verdict(await ready())

    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    for path, endpoint in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics)):
        app.add_api_route(path, endpoint, include_in_schema=False)
    return app


def _verdict(fault: str | None) -> Response:
    if fault is None:
        return JSONResponse({"status": "ok"})
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, fault)


async def _on_paybus_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, PaybusError)
    return answer_to(error)


def answer_to(error: PaybusError) -> Response:
    """The problem document that says what went wrong."""
    status = next((status for cls, status in _STATUS if isinstance(error, cls)), None)
    if status is None:
        return answer_to_bug(error)
    headers = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(math.ceil(getattr(error, "retry_after", 5)))
    return problem(status, str(error), headers)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [
        {"in": ".".join(map(str, each["loc"])), "problem": each["msg"]} for each in error.errors()
    ]
    detail = "; ".join(f"{fault['in']}: {fault['problem']}" for fault in faults)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=faults)


async def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(HTTPStatus(error.status_code), str(error.detail), error.headers)


async def _on_database_error(_: Request, error: Exception) -> Response:
    if isinstance(error, sqlalchemy.exc.DataError):  # such as NUL in a text
        return await _on_paybus_error(_, Invalid("a value that can't be stored or looked for"))
    if classify(error) is Kind.OUTAGE:
        log.warning("the database is away", error=describe(error))
        return await _on_paybus_error(_, Unavailable("the database can't be reached now"))
    return await _on_bug(_, error)


async def _on_bug(_: Request, error: Exception) -> Response:
    return answer_to_bug(error)


def answer_to_bug(error: Exception) -> Response:
    """500, and the whole error in the log."""
    log.error("unhandled error", exc_info=error)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "An unexpected error; the log has it with its stack."
    )


def encode_cursor(*key: str) -> str:
    """An opaque mark of where a page ended."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, parts: int) -> list[str]:
    """Raises `Invalid` for anything that `encode_cursor` did not make."""
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, list) or len(key) != parts or not all(_is_plain(k) for k in key):
        raise Invalid("the cursor is not one that this endpoint gave out")
    return key


def _is_plain(part: object) -> bool:
    return isinstance(part, str) and part.isascii() and part.isprintable()

"""Errors as problem documents, RFC 9457."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi.responses import JSONResponse
from starlette.responses import Response

from common.errors import (
    Busy,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    NotYet,
    PaybusError,
    ProviderRejected,
    RateLimited,
    TooLarge,
    TooMany,
    TooSlow,
    Unauthenticated,
    Unavailable,
    Undecided,
    Upstream,
)
from common.observability.logging import get_logger

log = get_logger(__name__)

# The only mapping of domain errors to HTTP. The first matching row decides.
_STATUS: tuple[tuple[type[PaybusError], HTTPStatus], ...] = (
    (NotFound, HTTPStatus.NOT_FOUND),
    (Invalid, HTTPStatus.BAD_REQUEST),
    (Conflict, HTTPStatus.CONFLICT),
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (TooSlow, HTTPStatus.REQUEST_TIMEOUT),
    (TooMany, HTTPStatus.TOO_MANY_REQUESTS),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (NotYet, HTTPStatus.SERVICE_UNAVAILABLE),
    (Busy, HTTPStatus.CONFLICT),
    (RateLimited, HTTPStatus.SERVICE_UNAVAILABLE),
    (ProviderRejected, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Upstream, HTTPStatus.BAD_GATEWAY),
    (Undecided, HTTPStatus.INTERNAL_SERVER_ERROR),
)


SECURITY_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
}


def problem(
    status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    """Return a problem document, RFC 9457."""
    body = {"type": "about:blank", "title": status.phrase, "status": status, "detail": detail}
    return JSONResponse(
        body | more,
        status,
        media_type="application/problem+json",
        headers=SECURITY_HEADERS | dict(headers or {}),
    )


def problem_response(error: PaybusError) -> Response:
    """Return the problem document of an error."""
    status = next((status for cls, status in _STATUS if isinstance(error, cls)), None)
    if status is None:
        return internal_error_response(error)
    headers = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        headers["Retry-After"] = str(math.ceil(getattr(error, "retry_after", 5)))
    if status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}:
        headers["Connection"] = "close"  # the rest is not read: RFC 9110, 15.5.9 and 15.5.14
    return problem(status, str(error), headers)


def internal_error_response(error: Exception) -> Response:
    """Log the complete error and return 500."""
    log.error("unhandled_error", exc_info=error)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "An unexpected error; the log contains it with its stack trace.",
    )

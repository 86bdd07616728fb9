"""Shared parts of every HTTP API: errors, request limits, health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from typing import Any

import sqlalchemy.exc
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from common.error_policy import ErrorKind, classify
from common.errors import Invalid, PaybusError, Unavailable, describe
from common.http.middleware import Guard
from common.http.problems import internal_error_response, problem, problem_response
from common.observability import tracing
from common.observability.logging import get_logger

log = get_logger(__name__)

_MOST_FAULTS = 100

_SILENT: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}

Check = Callable[[], Awaitable[str | None]]
"""Returns None when well, else a sentence about what is wrong."""


def create_app(
    title: str, *, alive: Check, ready: Check, large_bodies: Collection[str] = (), **options: Any
) -> FastAPI:
    """Return an application with `/healthz`, `/readyz`, `/metrics` and errors as problem documents.

    `large_bodies` are the paths whose bodies may be larger than others.

    `alive` fails only when a restart would help. An unreachable broker or database makes a process
    not ready; a restart would not bring it back.
    """
    # No documentation pages: they load scripts from other hosts. FastAPI's own telemetry is off:
    # its spans contain queries, its logs the invalid values; ours is
    # common/observability/tracing.py.
    app = FastAPI(title=title, openapi_url=None, telemetry=_SILENT, **options)
    app.add_middleware(Guard, large_bodies=frozenset(large_bodies))
    if tracing.wanted():
        app.add_middleware(tracing.Traced)
    app.add_exception_handler(PaybusError, _on_paybus_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(sqlalchemy.exc.SQLAlchemyError, _on_database_error)
    app.add_exception_handler(OverflowError, _on_overflow)
    app.add_exception_handler(Exception, _on_bug)

    async def healthz() -> Response:
        return _verdict(await alive())

    async def readyz() -> Response:
        return _verdict(await ready())

    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def description() -> Response:
        # Generated once, outside the event loop: it takes some tenths of a second.
        return JSONResponse(await asyncio.to_thread(app.openapi))

    for path, endpoint in (
        ("/healthz", healthz),
        ("/readyz", readyz),
        ("/metrics", metrics),
        ("/openapi.json", description),
    ):
        app.add_api_route(path, endpoint, include_in_schema=False)
    return app


def _verdict(fault: str | None) -> Response:
    if fault is None:
        return JSONResponse({"status": "ok"})
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, fault)


async def _on_paybus_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, PaybusError)
    return problem_response(error)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    faults = [
        {"in": ".".join(map(str, each["loc"])), "problem": each["msg"]}
        for each in found[:_MOST_FAULTS]
    ]
    if len(found) > _MOST_FAULTS:
        faults.append({"in": "", "problem": f"and {len(found) - _MOST_FAULTS} more faults"})
    detail = "; ".join(f"{fault['in']}: {fault['problem']}" for fault in faults)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=faults)


async def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(HTTPStatus(error.status_code), str(error.detail), error.headers)


async def _on_database_error(_: Request, error: Exception) -> Response:
    if isinstance(error, sqlalchemy.exc.DataError):  # such as NUL in a text
        return await _on_paybus_error(_, Invalid("a value that can't be stored or searched for"))
    if classify(error) is ErrorKind.OUTAGE:
        log.warning("database_unavailable", error=describe(error))
        return await _on_paybus_error(_, Unavailable("the database can't be reached at present"))
    return await _on_bug(_, error)


async def _on_overflow(_: Request, __: Exception) -> Response:
    """Handle an overflow, such as a date one day before the year 1."""
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "a date or a number that is out of range")


async def _on_bug(_: Request, error: Exception) -> Response:
    return internal_error_response(error)

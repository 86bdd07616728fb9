"""Traces, by OpenTelemetry: from a webhook through the outbox to the last consumer of its events.

An event carries its `traceparent` (https://www.w3.org/TR/trace-context/), so a trace continues in
whichever process handles the event, however much later. Off, unless `OTEL_TRACES_EXPORTER` or an
`OTEL_EXPORTER_OTLP_ENDPOINT` is set: then the SDK is configured by its own environment variables
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from common.observability.redaction import Redactor

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from common.contracts.event import Event

_redact = Redactor()

_ON = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def wanted() -> bool:
    exporter = os.environ.get(_ON)
    if exporter is not None:
        return exporter not in {"", "none"}
    return any(os.environ.get(name) for name in _ENDPOINTS)


def configure(service: str, role: str) -> Callable[[], None]:
    """Start tracing if it is enabled; return the function that sends the last spans at shutdown.

    The SDK is loaded only then. Raise `ValueError` for an exporter other than `otlp`, the one that
    is installed, and `console`.
    """
    if not wanted():
        return lambda: None
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SpanExporter,
    )

    chosen = os.environ.get(_ON, "otlp")
    exporter: SpanExporter
    if chosen == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )

        exporter = OTLPSpanExporter()
    elif chosen == "console":
        exporter = ConsoleSpanExporter()
    else:
        raise ValueError(f"{_ON} is {chosen!r}: it must be otlp, console or none")
    named = {"service.name": f"paybus-{service}", "paybus.role": role}
    if "OTEL_SERVICE_NAME" in os.environ:
        del named["service.name"]
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider.shutdown


_tracing = wanted()  # evaluated once: with tracing off, a span costs this check


@contextmanager
def span(
    name: str,
    *,
    kind: str = "internal",
    parent: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Iterator[Span | None]:
    """Trace a piece of work; yield the span, or None when tracing is off.

    `parent` is a `traceparent`; the default is the current span. `kind` is `server`, `consumer`,
    `producer`, `client` or `internal`. An error is recorded by its type alone: its message may
    contain personal data.
    """
    if not _tracing:
        yield None
        return
    from opentelemetry import context, trace  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    above = context.get_current()
    if parent is not None:
        above = TraceContextTextMapPropagator().extract({"traceparent": parent})
    with trace.get_tracer("paybus").start_as_current_span(
        name,
        context=above,
        kind=trace.SpanKind[kind.upper()],
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except BaseException as error:
            opened.set_status(trace.StatusCode.ERROR, type(error).__name__)
            opened.set_attribute("error.type", type(error).__name__)
            raise


def consuming(queue: str, event: Event[Any]) -> AbstractContextManager[Span | None]:
    """Trace the handling of an event as a part of the event's own trace."""
    if not _tracing:
        return nullcontext()
    return span(
        f"{queue} {event.type}",
        kind="consumer",
        parent=event.traceparent,
        attributes={
            "messaging.system": "rabbitmq",
            "messaging.destination.name": queue,
            # An id may contain an e-mail address or a card number.
            "messaging.message.id": _redact(event.id),
            "messaging.message.conversation_id": _redact(event.correlationid),
        },
    )


class Traced:
    """ASGI application whose requests are traced.

    A caller's `traceparent` is ignored: otherwise any caller could decide which traces are
    retained.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with span(scope["method"], kind="server") as opened:
            await self._app(scope, receive, send)
            route = getattr(scope.get("route"), "path", None)
            if opened is not None and route is not None:
                opened.update_name(f"{scope['method']} {route}")


def traceparent() -> str | None:
    """Return the `traceparent` of the current span; None when tracing is off."""
    if not _tracing:
        return None
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")

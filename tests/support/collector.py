"""An OpenTelemetry collector that stores the spans it receives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collected:
    """Received spans in order, each with the service that sent it."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    def named(self, name: str) -> list[tuple[str, Any]]:
        return [each for each in self.spans if each[1].name == name]


@contextmanager
def collector() -> Iterator[tuple[str, Collected]]:
    """Serve OTLP over HTTP; spans are stored in memory."""
    collected = Collected()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    collected.spans += [(names["service.name"], each) for each in scope.spans]
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", collected
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

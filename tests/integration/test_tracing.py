"""One trace from a webhook to the last consumer, over three services and their outboxes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from conftest import MakePaybus
from support.organizations import until_status
from support.waiting import until

_PROCESSES = [
    "webhook-gateway",
    "subscription-worker",
    "subscription-api",
    "provisioning-worker",
    "provisioning-api",
    "sandbox-backend",
]


class Collected:
    """Spans as they came, with the service that sent each."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    def named(self, name: str) -> list[tuple[str, Any]]:
        return [each for each in self.spans if each[1].name == name]


@contextmanager
def collector() -> Iterator[tuple[str, Collected]]:
    """OTLP over HTTP, in memory."""
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


def test_a_trace_goes_from_the_webhook_to_the_last_consumer(make_paybus: MakePaybus) -> None:
    with collector() as (url, collected):
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with make_paybus(_PROCESSES, **settings) as paybus:
            number = paybus.subscribe()
            until_status(paybus, number, "provisioned")
            last = "provisioning.organizations organization.requested"
            until(lambda: collected.named(last), what="the last consumer's span came")
            ((service, ended),) = collected.named(last)
            assert service == "paybus-provisioning"
            mine = [each for each in collected.spans if each[1].trace_id == ended.trace_id]
            assert {name for name, _ in mine} == {
                "paybus-webhook-gateway",
                "paybus-subscription",
                "paybus-provisioning",
            }
            # Each span's parent is another one of the trace, up to the webhook itself.
            by_id = {span.span_id: span for _, span in mine}
            way, span = [ended.name], ended
            while span.parent_span_id:
                span = by_id[span.parent_span_id]
                way.append(span.name)
            assert way == [
                last,
                "provisioning.subscriptions subscription.activated",
                "subscription.billing provider_subscription.created",
                "webhook stripe",
            ]

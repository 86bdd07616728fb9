"""One trace from a webhook to the last consumer, across three services and their outboxes."""

from __future__ import annotations

from conftest import MakePaybus
from support.collector import collector
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
            last = "provisioning.organizations organization.reconcile"
            until(lambda: collected.named(last), what="the last consumer's span came")
            ((service, ended),) = collected.named(last)
            assert service == "paybus-provisioning"
            mine = [each for each in collected.spans if each[1].trace_id == ended.trace_id]
            assert {name for name, _ in mine} == {
                "paybus-webhook-gateway",
                "paybus-subscription",
                "paybus-provisioning",
            }
            # Each span's parent is another span of the trace, up to the webhook itself.
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

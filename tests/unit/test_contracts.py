"""The event contracts: envelope, payloads, and the route of each event."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.contracts import registry, topology
from common.contracts.asyncapi import queues_of
from common.contracts.event import CONTENT_TYPE, DecodeError, Event, derived_id, event_model
from common.contracts.payments import Contact, PaymentOutcome
from common.contracts.registry import EVENT_TYPES
from common.contracts.subscriptions import CustomerChanged
from common.messaging.events import follow_up_event

SNAPSHOT = Path(__file__).parent / "contracts.json"


def an_event(**changes: Any) -> Event[CustomerChanged]:
    now = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
    fields: dict[str, Any] = {
        "id": "evt_1",
        "source": "/webhook-gateway/stripe",
        "type": "customer.changed",
        "subject": "customer-1",
        "time": now,
        "recordedtime": now,
        "tenant": "default",
        "correlationid": "evt_1",
        "trust": "signature",
        "data": CustomerChanged(customer_id="c", contact=Contact(email="a@example.com")),
    }
    return event_model(CustomerChanged)(**(fields | changes))


words = st.text(min_size=1, max_size=50)
moments = st.datetimes(timezones=st.just(UTC))


@given(
    id=words,
    subject=words,
    time=moments,
    tenant=words,
    causationid=st.none() | words,
    sequence=st.none() | st.integers(0, 2**60),
    trust=st.sampled_from(["signature", "secret", "requery"]),
    email=st.none() | words,
)
def test_an_envelope_survives_the_wire(email: str | None, **attributes: Any) -> None:
    data = CustomerChanged(customer_id="c", contact=Contact(email=email))
    event = an_event(data=data, **attributes)
    assert registry.decode(event.encode()) == event


def test_the_wire_format_is_cloudevents_structured_json() -> None:
    body = json.loads(an_event().encode())
    assert CONTENT_TYPE == "application/cloudevents+json"
    assert {"specversion", "id", "source", "type"} <= body.keys(), "required by CloudEvents 1.0"
    assert body["specversion"] == "1.0"
    assert body["time"] == "2026-11-21T10:00:00Z", "RFC 3339"
    assert all(name.isalnum() and name.islower() for name in body), "attribute names"
    assert None not in body.values(), "an attribute that is not set is left out"


def test_producers_cannot_add_a_field_and_consumers_ignore_it() -> None:
    with pytest.raises(ValidationError):
        CustomerChanged(customer_id="c", contact=Contact(), more=1)  # type: ignore[call-arg]
    body = json.loads(an_event().encode())
    body["futureattribute"] = "x"
    body["data"]["future_field"] = {"nested": True}
    assert registry.decode(json.dumps(body).encode()) == an_event()


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"type": 1}', b'{"type": "x.y"}'])
def test_what_is_no_event_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        registry.decode(body)


def test_a_decode_error_names_the_field_and_shows_no_value() -> None:
    body = json.loads(an_event().encode())
    body["data"]["customer_id"] = {"secret": "4242424242424242"}
    with pytest.raises(DecodeError, match=r"data\.customer_id") as caught:
        registry.decode(json.dumps(body).encode())
    assert "4242" not in str(caught.value)


def test_the_same_cause_gives_the_same_follow_up_id() -> None:
    def follow(**changes: Any) -> str:
        arguments: dict[str, Any] = {
            "type": "customer.changed",
            "source": "/subscription",
            "subject": "s",
            "sequence": 1,
            "data": an_event().data,
        }
        return follow_up_event(changes.pop("cause", an_event()), **(arguments | changes)).id

    assert follow() == follow()
    others = [
        follow(cause=an_event(id="evt_2")),
        follow(type="subscription.renewed"),
        follow(subject="t"),
        follow(sequence=2),
    ]
    assert len({follow(), *others}) == 5


def test_a_follow_up_keeps_the_chain() -> None:
    cause = an_event(id="evt_2", correlationid="evt_1", tenant="shop", traceparent="00-1-2-01")
    event = follow_up_event(
        cause, type="customer.changed", source="/s", subject="x", data=an_event().data
    )
    assert (event.correlationid, event.causationid) == ("evt_1", "evt_2")
    assert (event.tenant, event.traceparent, event.trust) == ("shop", "00-1-2-01", "signature")


def test_derived_ids_keep_their_parts_apart() -> None:
    assert derived_id("a", "bc") != derived_id("ab", "c")


def test_money_is_never_a_float() -> None:
    with pytest.raises(ValidationError):
        PaymentOutcome(
            provider="stripe",
            payment_id="in_1",
            customer_id=None,
            amount=15.0,
            currency="EUR",
        )


@pytest.mark.parametrize(
    "type_", [*EVENT_TYPES, "provider.stripe.radar.early_fraud_warning.created"]
)
def test_every_event_type_has_a_queue_or_is_named_journal_only(type_: str) -> None:
    journal_only = any(topology.matches(pattern, type_) for pattern in topology.JOURNAL_ONLY)
    assert bool(queues_of(type_)) != journal_only


def test_every_event_goes_through_a_domain_exchange_and_every_job_through_its_own() -> None:
    bound = {binding.exchange for queue in topology.QUEUES for binding in queue.bindings}
    assert bound <= {*topology.DOMAIN_EXCHANGES, topology.JOBS}
    for type_, entry in EVENT_TYPES.items():
        is_job = entry.exchange == topology.JOBS
        assert is_job == type_.startswith("job.run."), type_
        assert is_job or entry.exchange in topology.DOMAIN_EXCHANGES, type_


@pytest.mark.parametrize(
    ("pattern", "key", "taken"),
    [
        ("payment.*", "payment.succeeded", True),
        ("payment.*", "payment.a.b", False),
        ("provider.#", "provider.stripe.a.b", True),
        ("provider.#", "provider", True),
        ("#.failed", "payment.card.failed", True),
        ("subscription.*", "provider_subscription.created", False),
    ],
)
def test_patterns_match_as_the_broker_matches_them(pattern: str, key: str, taken: bool) -> None:
    assert topology.matches(pattern, key) is taken


def test_no_contract_changed_by_accident() -> None:
    """After an intended change (additive only): delete contracts.json and run this test."""
    schemas = {name: entry.payload.model_json_schema() for name, entry in EVENT_TYPES.items()}
    schemas["provider.*"] = registry.lookup("provider.x.y").payload.model_json_schema()
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(json.dumps(schemas, indent=1, sort_keys=True) + "\n")
        pytest.fail(f"wrote {SNAPSHOT.name}; look at the difference and commit it")
    assert schemas == json.loads(SNAPSHOT.read_text())

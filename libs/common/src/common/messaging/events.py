"""Events that a service emits: new ones, and those that another event causes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from common.contracts.event import Event, PayloadT, Trust, derived_id, event_model
from common.observability import tracing


def follow_up_event(
    cause: Event[Any],
    *,
    type: str,
    source: str,
    subject: str,
    data: PayloadT,
    sequence: int | None = None,
    tenant: str | None = None,
    correlation_id: str | None = None,
) -> Event[PayloadT]:
    """Return the event that a service emits while it handles `cause`.

    The id is derived from the cause, so that handling `cause` again emits the same event. The
    sequence distinguishes two events of one type and subject with the same cause.
    """
    now = datetime.now(UTC)
    return event_model(data.__class__)(
        id=derived_id(cause.source, cause.id, type, subject, str(sequence)),
        source=source,
        type=type,
        subject=subject,
        time=now,
        recordedtime=now,
        tenant=tenant or cause.tenant,
        correlationid=correlation_id or cause.correlationid,
        causationid=cause.id,
        traceparent=tracing.traceparent() or cause.traceparent,
        trust=cause.trust,
        sequence=sequence,
        data=data,
    )


def new_event(
    *,
    id: str,
    type: str,
    source: str,
    subject: str,
    tenant: str,
    data: PayloadT,
    correlationid: str | None = None,
    sequence: int | None = None,
    time: datetime | None = None,
    trust: Trust = "signature",
) -> Event[PayloadT]:
    """Return an event that no other event caused, but an API call or a schedule."""
    now = datetime.now(UTC)
    return event_model(data.__class__)(
        id=id,
        source=source,
        type=type,
        subject=subject,
        time=time or now,
        recordedtime=now,
        tenant=tenant,
        correlationid=correlationid or id,
        traceparent=tracing.traceparent(),
        trust=trust,
        sequence=sequence,
        data=data,
    )

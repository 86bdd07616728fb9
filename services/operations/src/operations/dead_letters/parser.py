"""Parses dead letters: the event, and why it failed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from common.contracts import topology
from common.messaging import dead_letter, queue_recovery, replay_marker
from common.messaging.dead_letter import FailureHistory
from common.observability.redaction import Redactor
from operations import domain
from operations.dead_letters import masking
from operations.domain import ErrorFingerprint
from operations.models import dead_letter_id

_UNKNOWN = "unknown"
_LONGEST_TEXT = 100_000
_LONGEST_WORD = 500
_LONGEST_ERROR = 2_000
_LONGEST_STACK = 16_000
_LAST_YEAR = 9000


@dataclass(frozen=True)
class ParsedDeadLetter:
    """`item` is the replay item that sent the message, if any. All texts are safe to store; `text`
    is the searchable part of the body: only what viewers see."""

    id: str
    queue: str
    fault: ErrorFingerprint
    type: str
    source: str | None
    event_id: str | None
    tenant: str | None
    subject: str | None
    correlation_id: str | None
    time: datetime | None
    recorded_at: datetime | None
    body: bytes
    headers: dict[str, Any]
    text: str
    reason: str
    error: str
    stack: str
    attempts: int
    history: list[Any]
    dead_lettered_at: datetime
    item: str | None

    @property
    def group_id(self) -> str:
        return dead_letter_id(f"group {self.queue}", self.type, self.fault.fingerprint)


def parse(
    queue: str, body: bytes, headers: Mapping[str, Any], now: datetime, redact: Redactor
) -> ParsedDeadLetter:
    """Parse a dead letter. Never fails, because every dead letter has to be stored. `queue` is the
    queue in which it failed."""
    event = _event(body)
    if queue == topology.WEBHOOKS.name:
        # The body is the provider's: it must not decide which tenant it belongs to.
        event = {name: event.get(name) for name in ("id", "type")}
        event["source"] = _text(headers.get(dead_letter.ENDPOINT))
    failures = FailureHistory.of(headers)
    error = redact.beginning(_text(headers.get(dead_letter.ERROR)), _LONGEST_ERROR)
    stack = redact.end(_text(headers.get(dead_letter.STACK)), _LONGEST_STACK)
    reason = _text(headers.get(dead_letter.REASON))
    death = _x_death(headers)
    if not error:  # dead-lettered by the broker: delivery limit reached, or rejected
        reason = reason or str(death.get("reason") or _UNKNOWN)
        error = f"{reason}: given up by the broker, not by a worker"
    # Dead letters are searched by prefixes of their type, so store it as viewers see it.
    type_ = redact(text_field(event, "type") or "undecodable")
    if queue_recovery.is_recovery(headers):
        type_ = "order to refill"
    source, id_ = text_field(event, "source"), text_field(event, "id")
    identity = (source, id_) if source and id_ else (hashlib.sha256(body).hexdigest(),)
    return ParsedDeadLetter(
        id=dead_letter_id(queue, *identity),
        queue=queue,
        fault=domain.fault_of(error, stack),
        type=type_,
        source=source,
        event_id=id_,
        tenant=text_field(event, "tenant"),
        subject=text_field(event, "subject"),
        correlation_id=text_field(event, "correlationid"),
        time=timestamp_field(event.get("time")),
        recorded_at=timestamp_field(event.get("recordedtime")),
        body=body,
        headers=_kept(headers),
        text=sanitize(masking.searchable(body, redact))[:_LONGEST_TEXT],
        reason=reason or _UNKNOWN,
        error=error,
        stack=stack,
        attempts=failures.attempt,
        history=[_entry(each) for each in failures.history],
        dead_lettered_at=timestamp_field(_text(headers.get(dead_letter.DEAD_SINCE)))
        or _died(death)
        or now,
        item=replay_marker.replay_item_of(headers),
    )


def sanitize(text: str) -> str:
    """Replace what PostgreSQL cannot store: NUL characters and lone surrogates."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()


def minimal(letter: ParsedDeadLetter) -> ParsedDeadLetter:
    """Reduce a dead letter that cannot be stored in full to its queue, time and bytes."""
    return replace(
        letter,
        type=_UNKNOWN,
        source=None,
        event_id=None,
        tenant=None,
        subject=None,
        correlation_id=None,
        time=None,
        recorded_at=None,
        headers={},
        text="",
        reason=_UNKNOWN,
        error="it can't be stored as text: only its bytes are",
        stack="",
        history=[],
    )


def text_field(event: Mapping[str, Any], name: str) -> str | None:
    """Return a text field of an event, made safe to store and cut to a searchable length."""
    found = event.get(name)
    return sanitize(found)[:_LONGEST_WORD] if isinstance(found, str) and found else None


def timestamp_field(value: Any) -> datetime | None:
    """Parse a time as UTC; None unless both PostgreSQL and Python can represent it."""
    try:
        at = datetime.fromisoformat(value)
        at = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
    return at if 1 < at.year < _LAST_YEAR else None


def _kept(headers: Mapping[str, Any]) -> dict[str, Any]:
    order = headers.get(queue_recovery.ORDER)
    return {queue_recovery.ORDER: order} if isinstance(order, int) else {}


def _event(body: bytes) -> dict[str, Any]:
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return sanitize(bytes(value).decode(errors="replace"))
    return sanitize(value) if isinstance(value, str) else ""


def _entry(entry: Any) -> dict[str, str]:
    """Convert one attempt of the history: `attempt`, `at`, `error`."""
    if not isinstance(entry, Mapping):
        return {"error": sanitize(str(entry))}
    return {sanitize(str(key)): sanitize(str(value)) for key, value in entry.items()}


def _x_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the broker's newest death record; it comes first,
    https://www.rabbitmq.com/docs/dlx#effects."""
    failure_count = headers.get("x-death")
    if isinstance(failure_count, list) and failure_count and isinstance(failure_count[0], Mapping):
        return {
            str(key): _text(value) if isinstance(value, str | bytes) else value
            for key, value in failure_count[0].items()
        }
    return {}


def _died(death: Mapping[str, Any]) -> datetime | None:
    at = death.get("time")
    if not isinstance(at, datetime):
        return None
    return timestamp_field(at.isoformat())

"""Failure headers of a message, on the retry ladder and among the dead letters."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from common.errors import describe
from common.observability.redaction import Redactor

ATTEMPT: Final = "x-paybus-attempt"
HISTORY: Final = "x-paybus-history"
QUEUE: Final = "x-paybus-queue"
REASON: Final = "x-paybus-reason"
ERROR: Final = "x-paybus-error"
STACK: Final = "x-paybus-stack"
DEAD_SINCE: Final = "x-paybus-dead-since"
# The endpoint that received a webhook which could not be understood.
ENDPOINT: Final = "x-paybus-endpoint"

# In bytes, as encoded: all headers share one AMQP frame of 128 KiB, and the broker closes the
# connection at a larger one.
_LONGEST_ERROR = 2_000
_LONGEST_STACK = 16_000
_LONGEST_HISTORY = 48_000
_MOST_ATTEMPTS_TOLD = 20
_LARGEST_ATTEMPT = 1_000


@dataclass(frozen=True)
class FailureHistory:
    """Attempts so far: `history` has one `{"attempt", "at", "error"}` each, `at` in UTC."""

    attempt: int
    history: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, headers: Mapping[str, Any]) -> FailureHistory:
        """Read a message's headers; invalid ones count as none, so that it is still handled."""
        try:
            history = json.loads(_text(headers.get(HISTORY, "[]")))
            attempt = int(headers.get(ATTEMPT, 1))
            return cls(min(max(1, attempt), _LARGEST_ATTEMPT), tuple(history))
        except Exception:  # noqa: BLE001 - the headers are untrusted input
            return cls(1, ())

    def with_error(self, error: BaseException, redact: Redactor) -> FailureHistory:
        entry = {
            "attempt": self.attempt,
            "at": datetime.now(UTC).isoformat(),
            "error": _beginning(redact.beginning(describe(error), _LONGEST_ERROR)),
        }
        return FailureHistory(self.attempt, (*self.history, entry)[-_MOST_ATTEMPTS_TOLD:])

    def headers(self, *, attempt: int) -> dict[str, Any]:
        """Return the headers; the oldest attempts are omitted where all would be too long."""
        entries = [json.dumps(each, ensure_ascii=False) for each in self.history]
        while sum(len(each.encode()) for each in entries) > _LONGEST_HISTORY:
            del entries[0]
        return {ATTEMPT: attempt, HISTORY: f"[{', '.join(entries)}]"}


def headers(
    failures: FailureHistory, *, queue: str, reason: str, error: BaseException, redact: Redactor
) -> dict[str, Any]:
    """Return the headers for the dead-letter exchange; `failures` already includes `error`."""
    stack = "".join(traceback.format_exception(error))
    return failures.headers(attempt=failures.attempt) | {
        QUEUE: queue,
        REASON: reason,
        ERROR: _beginning(redact.beginning(describe(error), _LONGEST_ERROR)),
        STACK: _end(redact.end(stack, _LONGEST_STACK)),
        DEAD_SINCE: datetime.now(UTC).isoformat(),
    }


def _beginning(text: str) -> str:
    return _encoded(text)[:_LONGEST_ERROR].decode(errors="ignore")


def _end(text: str) -> str:
    return _encoded(text)[-_LONGEST_STACK:].decode(errors="ignore")


def _encoded(text: str) -> bytes:
    """Encode for a header: it must be valid Unicode, which text in an error may not be."""
    return text.encode("utf-8", "replace")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes | bytearray) else str(value)

"""The rules of dead letters and replays: no I/O."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum


class LetterState(StrEnum):
    OPEN = "open"  # somebody has to decide
    REPLAYING = "replaying"  # held by one replay, which nobody else may touch
    SUCCEEDED = "succeeded"  # sent again, and handled
    ARCHIVED = "archived"  # out of sight; may be restored
    DISCARDED = "discarded"  # given up, with a reason
    REPLACED = "replaced"  # an edited copy was sent in its place


class ItemState(StrEnum):
    """Of one message of a replay."""

    WAITING = "waiting"
    SENDING = "sending"  # its consumer has it, or the broker, or is about to
    SENT = "sent"  # likewise, and a worker that took over has seen that it was sent
    SUCCEEDED = "succeeded"
    ALREADY_DONE = "already_done"  # the consumer had taken it in before
    FAILED_AGAIN = "failed_again"
    SKIPPED = "skipped"


IN_FLIGHT = (ItemState.SENDING, ItemState.SENT)
UNSETTLED = (ItemState.WAITING, *IN_FLIGHT)


class ReplayState(StrEnum):
    PREPARING = "preparing"  # its messages are read from the journal
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


@dataclass(frozen=True)
class ErrorFingerprint:
    """What an error and its stack have in common with others: `summary` is the error without what
    differs from one message to the next, `frames` the functions it went through."""

    error_class: str
    summary: str
    fingerprint: str


_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|\b(?=[A-Za-z_-]{0,64}\d)[A-Za-z0-9_-]{6,255}\b"  # an id has a digit in it
    r"|\b0x[0-9a-f]+\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
_MAIL = re.compile(r"[^\s@<>'\"]{1,64}@[^\s@<>'\"]{1,255}")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_FRAME = re.compile(r'^\s*File "(?P<path>[^"]+)", line \d+, in (?P<function>\S+)', re.MULTILINE)
_LONGEST_SUMMARY = 300


def fault_of(error: str, stack: str) -> ErrorFingerprint:
    """Those of two messages that failed for the same reason are equal."""
    error_class = error.partition(":")[0].strip()[:100] or "unknown"
    summary = summarize(error)
    frames = [f"{_place(each['path'])}:{each['function']}" for each in _FRAME.finditer(stack)]
    digest = hashlib.sha256("\n".join([summary, *frames]).encode(errors="replace"))
    return ErrorFingerprint(error_class, summary, digest.hexdigest()[:16])


def summarize(error: str) -> str:
    """The error without quoted text, addresses, ids and numbers."""
    for pattern, instead in ((_QUOTED, "'…'"), (_MAIL, "…"), (_ID, "…"), (_NUMBER, "#")):
        error = pattern.sub(instead, error)
    return error[:_LONGEST_SUMMARY]


def _place(path: str) -> str:
    """A module's place, wherever it is installed."""
    return re.split(r"/(?:site-packages|src|lib/python\d[\d.]*)/", path)[-1]

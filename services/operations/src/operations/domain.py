"""The rules of dead letters and replays, without I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class LetterState(StrEnum):
    OPEN = "open"  # needs an operator's decision
    REPLAYING = "replaying"  # held by one replay; no other action may touch it
    SUCCEEDED = "succeeded"  # sent again and processed
    ARCHIVED = "archived"  # hidden; may be restored
    DISCARDED = "discarded"  # an operator gave it up, with a reason
    REPLACED = "replaced"  # an edited copy was sent in its place


# By the event that says so: the commands about its subject that are done, or need not be done any
# more. Their dead letters are void.
COMPLETES: Mapping[str, str] = {
    "organization.provisioned": "organization.reconcile",
    "organization.suspended": "organization.reconcile",
    "payout.paid": "payout.process.%",
    "payout.cancelled": "payout.process.%",
}


@dataclass(frozen=True)
class Completed:
    """Commands (a pattern of their types) about a subject that `event` has made void."""

    commands: str
    tenant: str
    subject: str
    at: datetime
    event: str


class ItemState(StrEnum):
    """The state of one message of a replay."""

    WAITING = "waiting"
    SENDING = "sending"  # about to be sent, with the broker, or with its consumer
    SENT = "sent"  # as SENDING, but confirmed as sent after the worker was replaced
    SUCCEEDED = "succeeded"
    ALREADY_DONE = "already_done"  # the consumer had already processed it
    FAILED_AGAIN = "failed_again"
    SKIPPED = "skipped"


IN_FLIGHT = (ItemState.SENDING, ItemState.SENT)
UNSETTLED = (ItemState.WAITING, *IN_FLIGHT)


class ReplayState(StrEnum):
    PREPARING = "preparing"  # its messages are being read from the journal
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


@dataclass(frozen=True)
class ErrorFingerprint:
    """The common part of errors with the same cause: `summary` is the error without the parts that
    differ between messages, `fingerprint` the hash of the summary and of the functions in the
    stack."""

    error_class: str
    summary: str
    fingerprint: str


_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|\b(?=[A-Za-z_-]{0,64}\d)[A-Za-z0-9_-]{6,255}\b"  # an id contains a digit
    r"|\b0x[0-9a-f]+\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
_MAIL = re.compile(r"[^\s@<>'\"]{1,64}@[^\s@<>'\"]{1,255}")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_FRAME = re.compile(r'^\s*File "(?P<path>[^"]+)", line \d+, in (?P<function>\S+)', re.MULTILINE)
_LONGEST_SUMMARY = 300


def fault_of(error: str, stack: str) -> ErrorFingerprint:
    """Return the fingerprint of an error; equal for messages that failed for the same reason."""
    error_class = error.partition(":")[0].strip()[:100] or "unknown"
    summary = summarize(error)
    frames = [f"{_place(each['path'])}:{each['function']}" for each in _FRAME.finditer(stack)]
    digest = hashlib.sha256("\n".join([summary, *frames]).encode(errors="replace"))
    return ErrorFingerprint(error_class, summary, digest.hexdigest()[:16])


def summarize(error: str) -> str:
    """Return the error without quoted text, e-mail addresses, ids and numbers."""
    for pattern, instead in ((_QUOTED, "'…'"), (_MAIL, "…"), (_ID, "…"), (_NUMBER, "#")):
        error = pattern.sub(instead, error)
    return error[:_LONGEST_SUMMARY]


def _place(path: str) -> str:
    """Return a module's path relative to where it is installed."""
    return re.split(r"/(?:site-packages|src|lib/python\d[\d.]*)/", path)[-1]

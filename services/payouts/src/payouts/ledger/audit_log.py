"""The log of every action, chained by hashes: whoever changes a row breaks the chain.

An entry's hash covers the entry before, and the ledger entries that the action made. `audit_head`
has the last one's, so that cutting off the end shows too. Who can write to the database can write
the whole chain anew: keep the head's hash, which each daily report has, somewhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from payouts.ledger.entries import Entry

FIRST_HASH = "0" * 64


@dataclass(frozen=True)
class Actor:
    """Who acts. `role` is one of the API's, or `system`."""

    name: str
    role: str


PAYBUS = Actor("paybus", "system")
# The roles of actors that are no persons.
NOBODY = frozenset({"system", "provider"})


@dataclass(frozen=True)
class Posting:
    """A ledger entry and whose it is."""

    recipient_id: str
    currency: str
    entry: Entry
    payout_id: str | None = None

    def as_json(self) -> list[Any]:
        entry = self.entry
        return [
            self.recipient_id,
            self.payout_id,
            self.currency,
            str(entry.source),
            str(entry.target),
            entry.amount,
        ]


@dataclass(frozen=True)
class Action:
    """`subject` is what was acted on, such as `payout/<id>`; `at` is UTC."""

    at: datetime
    tenant: str
    actor: Actor
    action: str
    subject: str
    before: str | None = None
    after: str | None = None
    reason: str | None = None
    posted: Sequence[Posting] = ()
    data: dict[str, Any] = field(default_factory=dict)


def chain(previous: tuple[int, str], actions: Iterable[Action]) -> Iterator[dict[str, Any]]:
    """The rows of the actions, after the entry of this position and hash."""
    position, hash_ = previous
    for action in actions:
        position += 1
        row = {
            "position": position,
            "at": action.at,
            "tenant": action.tenant,
            "actor": action.actor.name,
            "role": action.actor.role,
            "action": action.action,
            "subject": action.subject,
            "before": action.before,
            "after": action.after,
            "reason": action.reason,
            "data": {
                **action.data,
                **({"ledger": [each.as_json() for each in action.posted]} if action.posted else {}),
            },
        }
        hash_ = digest(hash_, row)
        yield row | {"hash": hash_}


def digest(previous: str, row: dict[str, Any]) -> str:
    """SHA-256 over the hash before and the row's columns as canonical JSON."""
    content = [
        row["position"],
        row["at"].astimezone(UTC).isoformat(timespec="microseconds"),
        row["tenant"],
        row["actor"],
        row["role"],
        row["action"],
        row["subject"],
        row["before"],
        row["after"],
        row["reason"],
        row["data"],
    ]
    text = json.dumps([previous, content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

"""Log of every action, chained by hashes: a changed row breaks the chain.

An entry's hash covers the entry before, and the ledger entries that the action made. `audit_head`
has the last one's hash, so that a truncated log is detected too. An attacker who can write to the
database can rewrite the complete chain: store the head's hash, which each daily report contains,
somewhere else.
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
    """The actor of an action. `role` is one of the API's, `system` or `provider`."""

    name: str
    role: str


PAYBUS = Actor("paybus", "system")
# Roles of actors that are not persons.
NOBODY = frozenset({"system", "provider"})


@dataclass(frozen=True)
class Posting:
    """A ledger entry with its recipient, currency and payout."""

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
    """An action for the log. `subject` is its object, such as `payout/<id>`; `at` is UTC."""

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
    """Yield the rows of the actions, which follow the entry with the position and hash in
    `previous`."""
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
    """Return the SHA-256 (hexadecimal) over the previous hash and the row's columns as canonical
    JSON."""
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

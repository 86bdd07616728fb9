"""A window of the journal that is sent to one queue again."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from common.contracts import topology
from common.contracts.event import derived_id
from common.messaging.journal import Entry
from common.security.encryption import SecretBox
from operations.domain import ItemState
from operations.models import dead_letter_id


class JournalWindow(BaseModel):
    """Events that are bound to `queue` and were recorded from `since` until before `until` (UTC),
    limited to `types` and `tenant` if given.

    `new_ids` gives the events new ids, so that a service that has already processed them processes
    them again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: str
    since: AwareDatetime
    until: AwareDatetime
    types: list[str] = Field(default_factory=list, max_length=100)
    tenant: str | None = None
    new_ids: bool = False

    def has(self, entry: Entry) -> bool:
        queue = topology.queue(self.queue)
        if not queue.takes(entry.exchange, entry.routing_key):
            return False
        if self.types and entry.routing_key not in self.types:
            return False
        try:
            event = json.loads(entry.body)
            recorded = datetime.fromisoformat(event["recordedtime"])
            fits = self.tenant is None or event["tenant"] == self.tenant
        except (ValueError, LookupError, TypeError, RecursionError):
            return False
        return bool(fits and self.since <= recorded < self.until)

    def item(self, replay: str, entry: Entry, vault: SecretBox) -> dict[str, Any]:
        """Return the item's row, with the same id for the same entry however often it is read."""
        body = entry.body
        event = json.loads(body)
        letter = dead_letter_id(self.queue, str(event.get("source")), str(event.get("id")))
        if self.new_ids:
            event["id"] = derived_id("replayed event", replay, event["source"], event["id"])
            body = json.dumps(event).encode()
        return {
            "id": derived_id("journal item", replay, str(entry.offset)),
            "replay_id": replay,
            "position": entry.offset,
            "queue": self.queue,
            "state": ItemState.WAITING.value,
            "sealed_body": vault.seal_bytes(body),
            "dead_letter_id": letter,
            "detail": None,
        }

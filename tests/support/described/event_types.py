"""The types of webhooks in the providers' own descriptions, as their official SDKs have them."""

from __future__ import annotations

import re
from pathlib import Path

import plaid
import square
import stripe

_SQUARE_TYPE = re.compile(r'`"?([a-z_]+(?:\.[a-z_]+)+)"?')
# The SDK does not spell these out: developer.squareup.com/docs/webhooks/v2-events-tech-ref
_SQUARE_UNNAMED = {
    "catalog_version_updated": "catalog.version.updated",
    "dispute_created": "dispute.created",
    "dispute_evidence_added": "dispute.evidence.added",
    "dispute_evidence_created": "dispute.evidence.created",
    "dispute_evidence_deleted": "dispute.evidence.deleted",
    "dispute_evidence_removed": "dispute.evidence.removed",
    "dispute_state_changed": "dispute.state.changed",
    "dispute_state_updated": "dispute.state.updated",
    "inventory_count_updated": "inventory.count.updated",
}


def stripe_types() -> set[str]:
    """Return what a webhook endpoint can select."""
    source = _folder(stripe) / "params/_webhook_endpoint_create_params.py"
    selectable = source.read_text().partition("enabled_events")[2]
    return set(re.findall(r'"([a-z_0-9]+(?:\.[a-z_0-9]+)+)"', selectable))


def square_types() -> set[str]:
    found = set()
    for source in _folder(square).glob("types/*_event.py"):
        text = source.read_text()
        if "event_id" not in text:
            continue
        described = re.search(r'type: typing.*?\n\s+"""\n(.*?)"""', text, re.DOTALL)
        named = _SQUARE_TYPE.findall(described[1]) if described else []
        found |= {*named} or {_SQUARE_UNNAMED[source.stem.removesuffix("_event")]}
    return found


def plaid_types() -> set[str]:
    """Return the webhooks' types and codes, as `TYPE.CODE`."""
    found = set()
    for source in _folder(plaid).glob("model/*webhook*.py"):
        text = source.read_text()
        kind = re.search(r'webhook_type \(str\): `\\*"?([A-Z_]+)', text)
        code = re.search(r'webhook_code \(\w+\): `\\*"?([A-Z_]+)', text)
        if kind and code:
            found.add(f"{kind[1]}.{code[1]}")
    return found


def _folder(package: object) -> Path:
    (path,) = package.__path__  # type: ignore[attr-defined]
    return Path(path)

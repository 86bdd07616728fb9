"""The AsyncAPI document is valid, and names every event type, queue and payload."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from common.contracts import topology
from common.contracts.asyncapi import ANY_PROVIDER_EVENT, document
from common.contracts.registry import EVENT_TYPES

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / ".paybus/npm/node_modules/asyncapi-specs/schemas/3.0.0.json"


@pytest.mark.skipif(
    not SCHEMA.exists() and not os.environ.get("CI"),
    reason="`make descriptions` fetches it, by npm",
)
def test_the_document_is_valid_asyncapi() -> None:
    """Validate against the schema that the specification's authors publish."""
    faults = Draft7Validator(json.loads(SCHEMA.read_text())).iter_errors(document())
    assert [f"{'/'.join(map(str, each.path))}: {each.message[:200]}" for each in faults] == []


def test_every_reference_leads_somewhere() -> None:
    found = document()
    missing = [reference for reference in _references(found) if not _resolves(found, reference)]
    assert missing == []


def test_every_event_and_queue_is_described() -> None:
    found = document()
    assert {*found["components"]["messages"]} == {*EVENT_TYPES, ANY_PROVIDER_EVENT}
    for queue in topology.QUEUES:
        channel = found["channels"][f"queue {queue.name}"]
        assert {*channel["messages"]} == {
            type_ for type_, each in EVENT_TYPES.items() if queue.takes(each.exchange, type_)
        }
    senders = {each["channel"]["$ref"] for each in found["operations"].values()}
    for type_ in EVENT_TYPES:
        assert f"#/channels/event%20{type_}" in senders or type_ == "replay.items_completed", type_


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [each for part in value.values() for each in _references(part)]
    return [each for part in value for each in _references(part)] if isinstance(value, list) else []


def _resolves(found: Any, reference: str) -> bool:
    for part in reference.removeprefix("#/").split("/"):
        name = part.replace("%20", " ").replace("%3C", "<").replace("%3E", ">")
        if not isinstance(found, dict) or name not in found:
            return False
        found = found[name]
    return True

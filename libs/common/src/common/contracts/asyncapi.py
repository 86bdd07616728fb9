"""The AsyncAPI 3 document of every exchange, queue, message and payload.

https://www.asyncapi.com/docs/reference/specification/v3.0.0
https://github.com/asyncapi/bindings/tree/master/amqp
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from common.contracts import topology
from common.contracts.event import event_model
from common.contracts.logins import PUBLISHES
from common.contracts.registry import EVENT_TYPES, EventType, lookup

ANY_PROVIDER_EVENT = "provider.<provider>.<type>"
_SCHEMA = "#/components/schemas/{model}"
_CLOUDEVENTS = "application/cloudevents+json"


def document() -> dict[str, Any]:
    """One channel for each event type (its routing key) and each queue, one message for each event
    type, and an operation for each publisher and consumer."""
    types = {**EVENT_TYPES, ANY_PROVIDER_EVENT: lookup(ANY_PROVIDER_EVENT)}
    models = {type_: event_model(entry.payload) for type_, entry in types.items()}
    schemas, definitions = models_json_schema(
        [(model, "serialization") for model in models.values()], ref_template=_SCHEMA
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Paybus",
            "version": "1",
            "description": "Every message is a CloudEvents 1.0 envelope in structured JSON. Times "
            "are RFC 3339 in UTC, amounts are integers in minor units.",
        },
        "defaultContentType": _CLOUDEVENTS,
        "channels": {
            **{f"event {type_}": _event_channel(type_, types[type_]) for type_ in types},
            **{f"queue {each.name}": _queue_channel(each) for each in topology.QUEUES},
        },
        "operations": {**_send_operations(types), **_receive_operations()},
        "components": {
            "messages": {
                type_: {
                    "name": type_,
                    "summary": entry.meaning,
                    "contentType": _CLOUDEVENTS,
                    "payload": schemas[models[type_], "serialization"],
                }
                for type_, entry in types.items()
            },
            "schemas": definitions["$defs"],
        },
    }


def queues_of(type_: str) -> list[str]:
    """The queues to which an event of this type is routed."""
    exchange = lookup(type_).exchange
    return [queue.name for queue in topology.QUEUES if queue.takes(exchange, type_)]


def publishers_of(type_: str, exchange: str) -> list[str]:
    """The services whose broker logins may publish this type."""
    concrete = type_.replace("<", "").replace(">", "")
    return [
        service
        for service, exchanges in PUBLISHES.items()
        if any(re.fullmatch(each, concrete) for each in exchanges.get(exchange, ()))
    ]


def _event_channel(type_: str, entry: EventType) -> Mapping[str, Any]:
    exchange = {"name": entry.exchange, "type": "topic", "durable": True, "vhost": "/"}
    return {
        "address": None if type_ == ANY_PROVIDER_EVENT else type_,
        "description": entry.meaning,
        "messages": {type_: _message(type_)},
        "bindings": {"amqp": {"is": "routingKey", "exchange": exchange}},
    }


def _queue_channel(queue: topology.Queue) -> Mapping[str, Any]:
    described = {"name": queue.name, "durable": True, "exclusive": False, "autoDelete": False}
    return {
        "address": queue.name,
        "messages": {type_: _message(type_) for type_ in _types_of(queue)},
        "bindings": {"amqp": {"is": "queue", "queue": {**described, "vhost": "/"}}},
    }


def _types_of(queue: topology.Queue) -> list[str]:
    return [type_ for type_, entry in EVENT_TYPES.items() if queue.takes(entry.exchange, type_)]


def _message(type_: str) -> dict[str, str]:
    return {"$ref": f"#/components/messages/{_pointer(type_)}"}


def _send_operations(types: Mapping[str, EventType]) -> dict[str, Any]:
    return {
        f"{service} sends {type_}": {
            "action": "send",
            "channel": {"$ref": f"#/channels/{_pointer(f'event {type_}')}"},
            "bindings": {"amqp": {"deliveryMode": 2, "ack": True}},
        }
        for type_, entry in types.items()
        for service in publishers_of(type_, entry.exchange)
    }


def _receive_operations() -> dict[str, Any]:
    return {
        f"receive from {each.name}": {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{_pointer(f'queue {each.name}')}"},
            "bindings": {"amqp": {"ack": True}},
        }
        for each in topology.QUEUES
    }


def _pointer(name: str) -> str:
    """As a part of a JSON pointer in a URI fragment (RFC 6901)."""
    escaped = name.replace("~", "~0").replace("/", "~1")
    return escaped.replace(" ", "%20").replace("<", "%3C").replace(">", "%3E")

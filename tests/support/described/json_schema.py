"""Shapes from JSON Schema: Square's objects, by the models of its official SDK, and Dwolla's, by
those of its package for Node."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel

from support.described import Shape


def of_model(model: type[BaseModel]) -> Shape:
    return shape((whole := model.model_json_schema()), whole)


def shape(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Shape:
    """Convert a schema; `whole` contains the definitions that it refers to."""
    if "$ref" in schema:
        return shape(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in schema:
        # The SDK's enumerations accept future values by an empty alternative; stand-ins must use
        # known values only.
        known = [each for each in schema["anyOf"] if each] or [{}]
        return Shape(any_of=tuple(partial(shape, each, whole) for each in known))
    kinds = schema.get("type", ())
    kinds = frozenset({kinds} if isinstance(kinds, str) else kinds)
    words = frozenset(schema.get("enum", ()))
    if "properties" in schema:
        return Shape(
            kinds,
            fields={k: partial(shape, v, whole) for k, v in schema["properties"].items()},
            required=frozenset(schema.get("required", ())),
        )
    free = schema.get("additionalProperties")
    return Shape(
        kinds,
        words=words,
        items=partial(shape, schema["items"], whole) if "items" in schema else None,
        values=partial(shape, free, whole) if isinstance(free, dict) else None,
    )

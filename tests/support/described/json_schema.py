"""Shapes of what is described by JSON Schema: Square's objects, by the official SDK's models, and
Dwolla's, by those of its package for Node."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel

from support.described import Shape


def of_model(model: type[BaseModel]) -> Shape:
    return shape((whole := model.model_json_schema()), whole)


def shape(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Shape:
    """`whole` has the definitions that it refers to."""
    if "$ref" in schema:
        return shape(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in schema:
        # An enumeration of the SDK's takes words that are to come, by an alternative that says
        # nothing: a stand-in has none of those.
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

"""Plaid's objects from the official SDK, which is generated from Plaid's OpenAPI file."""

from __future__ import annotations

import datetime as dt
import inspect
from functools import cache, partial
from typing import Any

from plaid.model_utils import ModelComposed, ModelNormal, ModelSimple

from support.described import Shape

_KINDS: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    dt.date: "string",
    dt.datetime: "string",
}


@cache
def shape(kind: Any) -> Shape:
    """Return the shape of a class of the SDK."""
    if kind in _KINDS:
        return Shape(frozenset({_KINDS[kind]}))
    if issubclass(kind, ModelSimple):
        words = {word for named in kind.allowed_values.values() for word in named.values()}
        return Shape(words=frozenset(words))
    if issubclass(kind, ModelComposed | ModelNormal):
        return _object(kind)
    return Shape()


def _one_of(kinds: tuple[Any, ...]) -> Shape:
    return Shape(any_of=tuple(partial(_of, each) for each in kinds))


def _of(kind: Any) -> Shape:
    """Convert a field's type: a class, `[item]`, `[(types of the items,)]` or `{str: (types,)}`."""
    if isinstance(kind, list):
        items = kind[0] if isinstance(kind[0], tuple) else (kind[0],)
        return Shape(frozenset({"array"}), items=partial(_one_of, items))
    if isinstance(kind, dict):
        return Shape(frozenset({"object"}))
    nullable = getattr(kind, "_nullable", False)
    null = partial(Shape, frozenset({"null"}))
    return Shape(any_of=(partial(shape, kind), null)) if nullable else shape(kind)


def _object(kind: Any) -> Shape:
    made = inspect.signature(kind._from_openapi_data).parameters.values()
    required = {each.name for each in made if each.kind is each.POSITIONAL_OR_KEYWORD}
    fields = {
        kind.attribute_map[name]: partial(
            _nullable, types, (name,) in kind.allowed_values and kind.allowed_values[(name,)]
        )
        for name, types in kind.openapi_types.items()
    }
    names = frozenset(kind.attribute_map[name] for name in required)
    return Shape(frozenset({"object"}), fields=fields, required=names)


def _nullable(kinds: tuple[Any, ...], words: Any) -> Shape:
    if words:
        return Shape(words=frozenset(words.values()))
    return _one_of(kinds)

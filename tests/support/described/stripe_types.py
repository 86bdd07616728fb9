"""Stripe's objects from the official SDK, which is generated from Stripe's OpenAPI file."""

from __future__ import annotations

import ast
import importlib
import inspect
import types
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache, partial
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from stripe import ListObject, StripeObject
from stripe._stripe_object import UntypedStripeObject

from support.described import Lazy, Shape

_KINDS = {
    str: "string",
    Decimal: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    types.NoneType: "null",
}


@cache
def shape(annotation: Any) -> Shape:
    """Return the shape of a class of the SDK, or of the annotation of one of its fields."""
    if annotation is Any:
        return Shape()
    if annotation in _KINDS:
        return Shape(frozenset({_KINDS[annotation]}))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is not None:
        return _MADE[origin](arguments)
    return _object(annotation)


def _union(arguments: tuple[Any, ...]) -> Shape:
    if any(get_origin(each) is Literal for each in arguments):
        # `str` stands for future values; stand-ins must use known values only.
        arguments = tuple(each for each in arguments if each is not str)
    return Shape(any_of=tuple(partial(shape, each) for each in arguments))


def _mapping(value: Any) -> Shape:
    return Shape(frozenset({"object"}), values=partial(shape, value))


_MADE: Mapping[Any, Callable[[tuple[Any, ...]], Shape]] = {
    Union: _union,
    types.UnionType: _union,
    Literal: lambda arguments: Shape(words=frozenset(arguments)),
    list: lambda arguments: Shape(frozenset({"array"}), items=partial(shape, arguments[0])),
    dict: lambda arguments: _mapping(arguments[1]),
    UntypedStripeObject: lambda arguments: _mapping(arguments[0]),
    ListObject: lambda arguments: _list_of(partial(shape, arguments[0])),
}


def _bare(kind: type) -> type:
    """Copy a class with its own annotations only: each module has its own names."""
    own = {"__annotations__": inspect.get_annotations(kind), "__module__": kind.__module__}
    return type(kind.__name__, (), own)


def _list_of(item: Lazy) -> Shape:
    words = {"object": Shape(words=frozenset({"list"}))}
    text, flag, number = (Shape(frozenset({each})) for each in ("string", "boolean", "integer"))
    items = Shape(frozenset({"array"}), items=item)
    fields = words | {"url": text, "has_more": flag, "data": items, "total_count": number}
    required = frozenset({"object", "data", "has_more", "url"})
    return Shape(frozenset({"object"}), fields=_lazily(fields), required=required)


def _lazily(fields: Mapping[str, Shape]) -> dict[str, Lazy]:
    return {name: partial(_same, each) for name, each in fields.items()}


def _same(shape: Shape) -> Shape:
    return shape


def _object(kind: type[StripeObject]) -> Shape:
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, StripeObject) and base is not StripeObject:
            hints |= get_type_hints(_bare(base), localns=_Names(base.__module__))
    aliases: Mapping[str, str] = getattr(kind, "_field_remappings", {})
    fields = {
        aliases.get(name, name): hint
        for name, hint in hints.items()
        if not name.startswith("_") and get_origin(hint) is not type and not name.isupper()
    }
    # Nullable fields may be absent: the SDK does not distinguish the two.
    required = {name for name, hint in fields.items() if types.NoneType not in get_args(hint)}
    return Shape(
        frozenset({"object"}),
        fields={name: partial(shape, hint) for name, hint in fields.items()},
        required=frozenset(required),
    )


class _Names(dict[str, Any]):
    """Names that a module of the SDK imports only for type checkers."""

    def __init__(self, module: str) -> None:
        super().__init__()
        tree = ast.parse(inspect.getsource(importlib.import_module(module)))
        self._imported = {
            alias.asname or alias.name: (each.module, alias.name)
            for each in ast.walk(tree)
            if isinstance(each, ast.ImportFrom) and each.module is not None
            for alias in each.names
        }

    def __missing__(self, name: str) -> Any:
        module, original = self._imported[name]
        return getattr(importlib.import_module(module), original)

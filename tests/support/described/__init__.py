"""Object schemas from the providers' own descriptions, in one common form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str, ...]
Lazy = Callable[[], "Shape"]


@dataclass(frozen=True)
class Shape:
    """The schema of a JSON value. `kinds` are JSON types, empty for any; `words` the values of an
    enumeration; `items` is the schema of an array's items, `values` that of an object with free
    keys."""

    kinds: frozenset[str] = frozenset()
    words: frozenset[Any] = frozenset()
    fields: Mapping[str, Lazy] | None = None
    required: frozenset[str] = frozenset()
    items: Lazy | None = None
    values: Lazy | None = None
    any_of: tuple[Lazy, ...] = field(default=())

    def choices(self) -> Iterator[Shape]:
        """Yield the shape itself, or each of its alternatives."""
        if not self.any_of:
            yield self
        for each in self.any_of:
            yield from each().choices()


def faults(shape: Shape, value: Any, *, whole: bool = True, at: Path = ()) -> list[str]:
    """Return where the value deviates from its schema; without `whole`, fields may be missing."""
    found = [_faults(each, value, whole=whole, at=at) for each in shape.choices()]
    return min(found, key=len, default=[])


def _faults(shape: Shape, value: Any, *, whole: bool, at: Path) -> list[str]:
    name, kind = ".".join(at) or "it", _kind(value)
    if shape.kinds and not {kind, "number" if kind == "integer" else kind} & shape.kinds:
        return [f"{name} is {kind}, not {' or '.join(sorted(shape.kinds))}"]
    if shape.words and value not in shape.words:
        return [f"{name} is {value!r}, not one of {sorted(map(str, shape.words))}"]
    found = []
    if isinstance(value, dict) and shape.fields is not None:
        missing = sorted(shape.required - value.keys()) if whole else ()
        found += [f"{'.'.join((*at, key))} is missing" for key in missing]
    for key, inner in _parts(value):
        part = _part(shape, key)
        if part is None:
            found.append(f"{'.'.join((*at, key))} is unknown")
        else:
            found += faults(part, inner, whole=whole, at=(*at, key))
    return found


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from (("[]", each) for each in value)


def _part(shape: Shape, key: str) -> Shape | None:
    """Return the schema of an item or field; any, if the description does not define it."""
    if key == "[]":
        return shape.items() if shape.items is not None else Shape()
    if shape.values is not None:
        return shape.values()
    if shape.fields is None:
        return Shape()
    return shape.fields[key]() if key in shape.fields else None


def knows(shape: Shape, path: Path) -> bool:
    """Return whether the description defines this path; `[]` stands for any item of an array."""
    if not path:
        return True
    parts = (_described(each, path[0]) for each in shape.choices())
    return any(part is not None and knows(part, path[1:]) for part in parts)


def _described(shape: Shape, key: str) -> Shape | None:
    there = shape.items if key == "[]" else shape.values or (shape.fields or {}).get(key)
    return there() if there is not None else None


_KINDS: Mapping[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "object")


class Read(dict[str, Any]):
    """An object that records the fields read by `[]` and by `get`."""

    def __init__(self, value: Mapping[str, Any], notes: set[Path], at: Path = ()) -> None:
        super().__init__({k: _noting(v, notes, (*at, k)) for k, v in value.items()})
        self._notes = notes
        self._at = at

    def __getitem__(self, key: str) -> Any:
        self._notes.add((*self._at, key))
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._notes.add((*self._at, key))
        return super().get(key, default)


def _noting(value: Any, notes: set[Path], at: Path) -> Any:
    if isinstance(value, dict):
        return Read(value, notes, at)
    if isinstance(value, list):
        return [_noting(each, notes, (*at, "[]")) for each in value]
    return value

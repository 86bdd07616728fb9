"""Keyset pagination: opaque cursors, pages, and reading a complete query in chunks."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime
from typing import Any

from sqlalchemy import Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from common.db.tenant_rows import RowT
from common.errors import Invalid

_CHUNK = 500
_MAX_DIGITS = 18
_INVALID = "the cursor is not one that this endpoint returned"


def encode_cursor(*key: str) -> str:
    """Return an opaque cursor for the end of a page."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, parts: int) -> list[str]:
    """Return the parts of a cursor. Raise `Invalid` for anything that `encode_cursor` did not
    make."""
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, list) or len(key) != parts or not all(_is_plain(k) for k in key):
        raise Invalid(_INVALID)
    return key


def _is_plain(part: object) -> bool:
    return isinstance(part, str) and part.isascii() and part.isprintable()


def timestamp(part: str) -> datetime:
    """Return a cursor's time. Raise `Invalid`."""
    try:
        return datetime.fromisoformat(part)
    except ValueError:
        raise Invalid(_INVALID) from None


def day(part: str) -> date:
    """Return a cursor's day. Raise `Invalid`."""
    try:
        return date.fromisoformat(part)
    except ValueError:
        raise Invalid(_INVALID) from None


def number(part: str) -> int:
    """Return a cursor's number. Raise `Invalid`."""
    if not part.isdecimal() or len(part) > _MAX_DIGITS:
        raise Invalid(_INVALID)
    return int(part)


async def keyset_page(
    session: AsyncSession,
    query: Select[Any],
    *keys: Any,
    parse: Sequence[Callable[[str], Any]],
    cursor: str | None,
    limit: int,
    ascending: bool = False,
) -> tuple[Sequence[Any], bool]:
    """Return up to `limit` rows, ordered by `keys`, and whether more rows follow.

    The keys are unique together; `parse` reads each from the cursor. Raise `Invalid`.
    """
    if cursor is not None:
        parts = decode_cursor(cursor, len(keys))
        last = tuple_(*(read(part) for read, part in zip(parse, parts, strict=True)))
        query = query.where(tuple_(*keys) > last if ascending else tuple_(*keys) < last)
    order = keys if ascending else [each.desc() for each in keys]
    rows = (await session.scalars(query.order_by(*order).limit(limit + 1))).all()
    return rows[:limit], len(rows) > limit


async def newest_first(
    session: AsyncSession, query: Select[Any], at: Any, id_: Any, cursor: str | None, limit: int
) -> tuple[Sequence[Any], bool]:
    """A page by a time and an id."""
    parse = (timestamp, str)
    return await keyset_page(session, query, at, id_, parse=parse, cursor=cursor, limit=limit)


async def page(
    session: AsyncSession,
    query: Select[RowT],
    table: type[RowT],
    *,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[RowT], bool]:
    """A page of a tenant's rows, newest first."""
    return await newest_first(session, query, table.created_at, table.id, cursor, limit)


async def in_chunks(
    open_session: Callable[[], AbstractAsyncContextManager[AsyncSession]],
    query: Select[Any],
    *keys: InstrumentedAttribute[Any],
) -> AsyncIterator[Sequence[Any]]:
    """Yield all rows of the query in chunks of 500, ordered by `keys`, which are unique together.

    Each chunk uses its own session, so that a slow reader holds no connection between chunks.
    """
    last: tuple[Any, ...] | None = None
    while True:
        chunk = query.order_by(*keys).limit(_CHUNK)
        if last is not None:
            chunk = chunk.where(tuple_(*keys) > tuple_(*last))
        async with open_session() as session:
            found = (await session.scalars(chunk)).all()
        if found:
            yield found
            last = tuple(getattr(found[-1], each.key) for each in keys)
        if len(found) < _CHUNK:
            return

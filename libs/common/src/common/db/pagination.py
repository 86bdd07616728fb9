"""Keyset pagination: opaque cursors, pages, and reading a complete query in chunks."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any

from sqlalchemy import Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from common.db.tenant_rows import RowT
from common.errors import Invalid


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
        raise Invalid("the cursor is not one that this endpoint gave out")
    return key


def _is_plain(part: object) -> bool:
    return isinstance(part, str) and part.isascii() and part.isprintable()


_CHUNK = 500


async def page(
    session: AsyncSession,
    query: Select[RowT],
    table: type[RowT],
    *,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[RowT], bool]:
    """Return up to `limit` rows of the query, newest first, and whether more rows follow."""
    if cursor is not None:
        at, id_ = decode_cursor(cursor, 2)
        query = query.where(tuple_(table.created_at, table.id) < tuple_(_moment(at), id_))
    query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)
    rows = (await session.scalars(query)).all()
    return rows[:limit], len(rows) > limit


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


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise Invalid("the cursor is not one that this endpoint gave out") from None

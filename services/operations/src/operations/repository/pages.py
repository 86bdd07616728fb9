"""Keyset pages by a time and an id."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from common.db.pagination import decode_cursor
from common.errors import Invalid

_MAX_DIGITS = 18
_INVALID = "the cursor is not one that this endpoint gave out"


async def newest_first(
    session: AsyncSession, query: Select[Any], at: Any, id_: Any, cursor: str | None, limit: int
) -> tuple[Sequence[Any], bool]:
    """A page of at most `limit` rows, and whether there are more. Raises `Invalid`."""
    if cursor is not None:
        moment, last = decode_cursor(cursor, 2)
        try:
            query = query.where(tuple_(at, id_) < tuple_(datetime.fromisoformat(moment), last))
        except ValueError:
            raise Invalid(_INVALID) from None
    found = (await session.scalars(query.order_by(at.desc(), id_.desc()).limit(limit + 1))).all()
    return found[:limit], len(found) > limit


def number(part: str) -> int:
    """A cursor's number. Raises `Invalid`."""
    if not part.isdecimal() or len(part) > _MAX_DIGITS:
        raise Invalid(_INVALID)
    return int(part)

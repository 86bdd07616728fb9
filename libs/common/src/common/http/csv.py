"""CSV that is safe to open in a spreadsheet (RFC 4180)."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

_FORMULA = frozenset("=+-@\t\r")


def line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow([_cell(each) for each in cells])
    return text.getvalue()


async def prefetch(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """Return the same lines after reading the first two.

    An error in them can still be reported by the response's status.
    """
    first = [await anext(lines)]
    with suppress(StopAsyncIteration):
        first.append(await anext(lines))

    async def all_() -> AsyncIterator[str]:
        for each in first:
            yield each
        async for each in lines:
            yield each

    return all_()


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return "true" if value else "false"
    text = "" if value is None else str(value)
    # A spreadsheet would run it as a formula; our own numbers are no formulas.
    return f"'{text}" if isinstance(value, str) and text[:1] in _FORMULA else text

"""Bulk statements for many rows, with one array per column.

A statement with a placeholder for each value is compiled and parsed again for each number of rows.
With arrays its text never changes, which makes a batch far cheaper
(docs/explanation/performance.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY, Insert, insert


def insert_rows(table: Table, columns: Sequence[str]) -> Insert:
    """Return `INSERT INTO table (columns) SELECT * FROM unnest(...)`; execute it with
    `columns_of`."""
    values = [bindparam(name, type_=ARRAY(table.c[name].type)) for name in columns]
    unnest = func.unnest(*values)
    rows = unnest.table_valued(*(Column(n, table.c[n].type) for n in columns)).render_derived()
    return insert(table).from_select(list(columns), select(*(rows.c[name] for name in columns)))


def columns_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, list[Any]]:
    """Return the parameters of `insert_rows`."""
    return {name: [row[name] for row in rows] for name in columns}


def equals_any(column: Any, values: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition `column = ANY (array)`."""
    result: ColumnElement[bool] = column == any_(
        bindparam(None, list(values), type_=ARRAY(column.type))
    )
    return result

"""Rows of a tenant: locking, lookup and pagination, the same in every service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import DateTime, Select, Table, Text, func, inspect, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from common.db.bulk import columns_of, equals_any, insert_rows
from common.errors import NotFound

# Type map for a service's `DeclarativeBase`.
TYPES = {str: Text, datetime: DateTime(timezone=True), list[str]: ARRAY(Text)}


class TenantRow:
    """Columns of every table with tenants' rows.

    `id` is derived from the row's subject, never random, so that a second writer finds the row of
    the first.
    """

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


RowT = TypeVar("RowT", bound=TenantRow)


async def lock_or_insert(
    session: AsyncSession, table: type[RowT], rows: Mapping[str, Mapping[str, Any]]
) -> None:
    """Lock the rows with these ids in the session, inserting the missing ones.

    Rows are locked in the order of their ids, so that two workers never deadlock. A later
    `session.get_one` then finds them without a query.
    """
    if not rows:
        return
    missing = await _lock_found(session, table, sorted(rows))
    if missing:
        values = [{"id": id_, **rows[id_]} for id_ in missing]
        columns = tuple(values[0])
        inserting = insert_rows(_table(table), columns).on_conflict_do_nothing().returning(table)
        statement = select(table).from_statement(inserting)
        inserted = (await session.scalars(statement, columns_of(values, columns))).all()
        pin(session, inserted)
        # Rows that another transaction inserted in the meantime.
        await _lock_found(session, table, sorted({*missing} - {row.id for row in inserted}))


async def insert_or_get(
    session: AsyncSession, table: type[RowT], values: Mapping[str, Any], *, lock: bool = False
) -> tuple[RowT, bool]:
    """Insert the row unless its id exists; return the stored row, locked if `lock`, and whether it
    is new. The caller compares an existing row with what was requested."""
    inserting = insert(table).values(values).on_conflict_do_nothing().returning(table.id)
    is_new = await session.scalar(inserting) is not None
    return await session.get_one(table, values["id"], with_for_update=lock), is_new


async def _lock_found(session: AsyncSession, table: type[RowT], ids: Sequence[str]) -> list[str]:
    """Lock and pin the existing rows; return the ids of the missing ones."""
    if not ids:
        return []
    locking = select(table).where(equals_any(table.id, ids)).order_by(table.id).with_for_update()
    found = (await session.scalars(locking)).all()
    pin(session, found)
    return sorted({*ids} - {row.id for row in found})


def _table(of: type[TenantRow]) -> Table:
    table = inspect(of).local_table
    assert isinstance(table, Table)
    return table


def pin(session: AsyncSession, found: Sequence[TenantRow]) -> None:
    """Hold the rows in the session: its own references are weak, and it would query them again."""
    session.info.setdefault("held", []).extend(found)


async def database_now(session: AsyncSession) -> datetime:
    """Return the database's time, which all replicas share."""
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now


async def get_for_tenant(session: AsyncSession, table: type[RowT], tenant: str, id_: str) -> RowT:
    """Return the tenant's row. Raise `NotFound`, also for another tenant's row."""
    row = await session.get(table, id_)
    if row is None or row.tenant != tenant:
        raise NotFound(f"no {table.__name__.lower()} has the id {id_!r}")
    return row


def filtered(table: type[RowT], tenant: str, filters: Mapping[str, Any]) -> Select[RowT]:
    """Return a query for the tenant's rows whose columns equal the filters; a None filter is
    ignored."""
    query = select(table).where(table.tenant == tenant)
    for column, value in filters.items():
        if value is not None:
            query = query.where(getattr(table, column) == value)
    return query

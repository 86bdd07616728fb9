"""What an operator does with the database itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from common import database
from common.crypto import EncryptionSettings, Vault
from common.errors import Upstream
from common.settings import DatabaseSettings, load
from payouts.models import Attempt, Recipient
from payouts.verifying import Verdict, verify

_BATCH = 500


class _Keys(DatabaseSettings, EncryptionSettings):
    pass


async def verify_books(
    expect: tuple[int, str] | None, progress: Callable[[int, int], None]
) -> Verdict:
    """One snapshot of them. Raises `Upstream` when the database can't be used."""
    with _plainly():
        async with database.engine(load(DatabaseSettings)) as engine:
            one_snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
            async with AsyncSession(one_snapshot) as session:
                return await verify(session, expect=expect, progress=progress)


async def rotate_keys() -> int:
    """How many rows were sealed with another than the newest key, and are sealed anew.

    Raises `Unreadable`, and `Upstream` when the database can't be used.
    """
    settings = load(_Keys)
    vault = Vault(settings.encryption_keys)
    with _plainly():
        async with database.engine(settings) as engine:
            return await _rotate(database.sessions_of(engine), vault)


async def _rotate(sessions: database.Sessions, vault: Vault) -> int:
    renewed = 0
    tables: tuple[tuple[Any, Any], ...] = ((Recipient, ""), (Attempt, 0))
    for table, first in tables:
        after = first
        while True:
            async with sessions.begin() as session:
                query = select(table).where(table.id > after).order_by(table.id)
                query = query.limit(_BATCH).with_for_update()
                found = (await session.scalars(query)).all()
                for row in found:
                    if (sealed := vault.renew(row.details)) is not None:
                        row.details = sealed
                        renewed += 1
            if len(found) < _BATCH:
                break
            after = found[-1].id
    return renewed


@contextmanager
def _plainly() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise Upstream(f"the database can't be used: {cause}") from error

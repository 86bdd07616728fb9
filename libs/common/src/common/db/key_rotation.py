"""Re-encryption of a service's sealed columns with the first of ENCRYPTION_KEYS, while it runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from common.db import database
from common.db.database import Sessions
from common.security.encryption import DecryptionFailed, EncryptionSettings, SecretBox
from common.settings import DatabaseSettings

_ROWS = 500
_BYTES = 32 * 2**20


class RotationSettings(DatabaseSettings, EncryptionSettings):
    pass


@dataclass(frozen=True)
class SealedColumn:
    """Text or bytes column of the table `of`, which has an `id`; null or empty where nothing is
    stored."""

    of: Any
    name: str


@dataclass(frozen=True)
class Sealing:
    """Sealed columns of a service. `begin` opens a transaction that sees every row."""

    columns: Sequence[SealedColumn]
    begin: Callable[[Sessions], AbstractAsyncContextManager[AsyncSession]] = Sessions.begin


@dataclass
class Rotation:
    """Count of values re-encrypted with the first key, and rows that no key opens, such as
    `recipients/4711`."""

    renewed: int = 0
    unreadable: list[str] = field(default_factory=list)


def run(settings: RotationSettings, sealing: Sealing) -> int:
    """Run the role `rotate-keys`; return the exit status."""
    try:
        done = asyncio.run(_rotate(settings, sealing))
    except SQLAlchemyError as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        print(f"the database can't be used: {cause}", file=sys.stderr)
        return 1
    print(f"{done.renewed} encrypted with the first key")
    for each in done.unreadable:
        print(f"no key in ENCRYPTION_KEYS decrypts {each}", file=sys.stderr)
    if done.unreadable:
        print(
            "add the key that encrypted them again, or enter their contents again", file=sys.stderr
        )
    return 1 if done.unreadable else 0


async def _rotate(settings: RotationSettings, sealing: Sealing) -> Rotation:
    vault, done = SecretBox(settings.encryption_keys), Rotation()
    async with database.engine(settings) as engine:
        sessions = database.sessions_of(engine)
        for column in sealing.columns:
            after = None
            while True:
                async with sealing.begin(sessions) as session:
                    after = await _renew_some(session, vault, column, after, done)
                if after is None:
                    break
    return done


async def _renew_some(
    session: AsyncSession, vault: SecretBox, column: SealedColumn, after: Any, done: Rotation
) -> Any:
    """Re-encrypt the next rows; return the id of the last one, None when there are none."""
    table, kept = column.of, getattr(column.of, column.name)
    sizes = select(table.id, func.octet_length(kept)).where(func.octet_length(kept) > 0)
    if after is not None:
        sizes = sizes.where(table.id > after)
    ids, size = list[Any](), 0
    for id_, length in await session.execute(sizes.order_by(table.id).limit(_ROWS)):
        size += length
        if ids and size > _BYTES:
            break
        ids.append(id_)
    locking = select(table).where(table.id.in_(ids)).order_by(table.id).with_for_update()
    for row in await session.scalars(locking):
        sealed = getattr(row, column.name)
        try:
            renewed = vault.reencrypt(sealed.encode() if isinstance(sealed, str) else sealed)
        except DecryptionFailed:
            done.unreadable.append(f"{table.__tablename__}/{row.id}")
            continue
        if renewed is not None:
            value = renewed.decode() if isinstance(sealed, str) else renewed
            setattr(row, column.name, value)
            done.renewed += 1
    return ids[-1] if ids else None

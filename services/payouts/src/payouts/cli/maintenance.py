"""Operations on the database itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from common.db import database
from common.errors import Upstream
from common.settings import DatabaseSettings, load_or_exit
from payouts.ledger.verification import VerificationResult, verify


async def verify_books(
    expect: tuple[int, str] | None, progress: Callable[[int, int], None]
) -> VerificationResult:
    """Verify the ledger in one snapshot. Raises `Upstream` when the database can't be used."""
    with _plainly():
        async with database.engine(load_or_exit(DatabaseSettings)) as engine:
            one_snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
            async with AsyncSession(one_snapshot) as session:
                return await verify(session, expect=expect, progress=progress)


@contextmanager
def _plainly() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise Upstream(f"the database can't be used: {cause}") from error

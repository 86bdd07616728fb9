"""The database engine, with every wait bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from common.settings import DatabaseSettings

Sessions = async_sessionmaker[AsyncSession]

# Seconds, but for tcp_user_timeout (milliseconds): a server that went silent is noticed.
CONNECT_ARGUMENTS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "options": "-c statement_timeout=30s -c lock_timeout=10s "
    "-c idle_in_transaction_session_timeout=60s -c timezone=UTC",
}


@asynccontextmanager
async def engine(settings: DatabaseSettings) -> AsyncIterator[AsyncEngine]:
    created = create_async_engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args=CONNECT_ARGUMENTS,
        hide_parameters=True,  # values may be personal data; errors reach logs and dead letters
    )
    try:
        yield created
    finally:
        await created.dispose()


def sessions_of(bound: AsyncEngine) -> Sessions:
    # No autoflush: a batch's changes are written together, at the commit.
    return async_sessionmaker(bound, expire_on_commit=False, autoflush=False)


async def answers(bound: AsyncEngine) -> bool:
    """For readiness: whether the database answers a query now."""
    async with bound.connect() as connection:
        return bool(await connection.scalar(text("SELECT true")))

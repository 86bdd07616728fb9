"""Database engine with a time limit for every wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from sqlalchemy import ExceptionContext, QueuePool, event, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from common.error_policy import READ_ONLY
from common.observability import metrics
from common.settings import DatabaseSettings

Sessions = async_sessionmaker[AsyncSession]

# In seconds, except tcp_user_timeout (milliseconds): they detect an unresponsive server. A
# read-only server is not accepted: after a failover a host name may still lead to the old primary.
CONNECT_ARGUMENTS = {
    "target_session_attrs": "read-write",
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "options": "-c statement_timeout=20s -c lock_timeout=10s "
    "-c idle_in_transaction_session_timeout=30s -c timezone=UTC",
}

_TAKES_CHANGES = text("SELECT NOT current_setting('transaction_read_only')::boolean")

# Longer than the server's own statement limit: it only matters when no response gets through.
_ANSWER_SECONDS = 25


class Connection(psycopg.AsyncConnection[Any]):
    """Connection that is closed when the server does not respond at all.

    The socket options above detect a host that is gone. They do not detect a network that drops
    packets behind a proxy or a load balancer which still acknowledges them.
    """

    async def wait(self, *args: Any, **options: Any) -> Any:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await super().wait(*args, **options)
        except TimeoutError as error:
            self.pgconn.finish()
            raise psycopg.OperationalError(
                f"PostgreSQL did not respond within {_ANSWER_SECONDS} s"
            ) from error


@asynccontextmanager
async def engine(settings: DatabaseSettings) -> AsyncIterator[AsyncEngine]:
    created = create_async_engine(
        settings.database_url.get_secret_value(),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={"async_creator_fn": Connection.connect, **CONNECT_ARGUMENTS},
        hide_parameters=True,  # values may be personal data; errors reach logs and dead letters
    )
    event.listen(created.sync_engine, "handle_error", _drop_read_only)
    pool = created.sync_engine.pool
    assert isinstance(pool, QueuePool)
    metrics.pool_size.set(settings.database_pool_size)
    metrics.pool_in_use.set_function(pool.checkedout)
    try:
        yield created
    finally:
        await created.dispose()


async def connect_directly(bound: AsyncEngine) -> Connection:
    """Open a connection outside the pool, to the server that the engine's URL names.

    SQLAlchemy parses the URL, because libpq reads host lists and passwords with blanks differently.
    """
    _, named = bound.dialect.create_connect_args(bound.url)
    arguments: dict[str, Any] = {**named, **CONNECT_ARGUMENTS}
    return await Connection.connect(autocommit=True, **arguments)


def _drop_read_only(context: ExceptionContext) -> None:
    """Treat a connection to a read-only server as lost: it became a standby, which a ping does not
    detect.

    The pool's other connections are dropped too, because they are as old.
    """
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True


def sessions_of(bound: AsyncEngine) -> Sessions:
    # No autoflush: a batch's changes are written together at the commit.
    return async_sessionmaker(bound, expire_on_commit=False, autoflush=False)


async def unfit(bound: AsyncEngine) -> str | None:
    """Return why the server can't be used at all, or None; None also while it is unreachable."""
    try:
        async with asyncio.timeout(_FIRST_SECONDS), bound.connect() as connection:
            limit = await connection.scalar(text("SHOW statement_timeout"))
    except Exception as error:  # noqa: BLE001 - the cause does not matter
        return _POOLER if "startup parameter" in str(error) else None
    return None if limit == "20s" else _POOLER


# Short, because a process also starts without its database.
_FIRST_SECONDS = 3

_POOLER = (
    "it leads to a pooler such as PgBouncer, which keeps neither a connection's time limits nor "
    "its LISTEN; name PostgreSQL itself: each process has a pool of its own (DATABASE_POOL_SIZE)"
)


async def fault(sessions: Sessions) -> str | None:
    """Return why the database can't be used now; None when it responds and accepts changes."""
    try:
        async with sessions() as session:
            takes_changes = await session.scalar(_TAKES_CHANGES)
    except Exception as error:  # noqa: BLE001 - the cause does not matter
        return f"the database does not respond: {type(error).__name__}"
    return None if takes_changes else "the database accepts no changes: it is read-only"

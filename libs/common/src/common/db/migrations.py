"""Alembic migrations from each service's package.

They run while the previous version's processes work, so a revision changes one table that is in
use: transactions that lock several in another order would deadlock with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from alembic import command, context, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.schema import SchemaItem
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random

from common.db.database import CONNECT_ARGUMENTS
from common.errors import describe
from common.observability.logging import get_logger
from common.settings import DatabaseSettings

log = get_logger(__name__)


# A statement may take as long as its table is large.
_ARGUMENTS: Final = CONNECT_ARGUMENTS | {"options": "-c statement_timeout=0 -c timezone=UTC"}
# A lock that a migration waits for makes all later transactions wait behind it: it gives up soon,
# and waits longer only if the table is always busy; never as long as those transactions wait.
_LOCK_TIMEOUTS: Final = ("500ms", "1s", "2s", "4s", "8s")
_LOCKED: Final = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
_PATIENCE_SECONDS: Final = 600
_ROWS_AT_ONCE: Final = 1000
_ALONE: Final = sa.text("SELECT pg_try_advisory_lock(hashtext('paybus-migrations'))")


def upgrade(settings: DatabaseSettings, package: Path) -> None:
    """Migrate the database to the newest version while processes use it. Concurrent calls are
    safe, and a database that a newer version has migrated is left as it is.

    A revision that alters tables is one transaction. Raise the database's error when a table can't
    be locked for ten minutes; the next call continues with the revision that failed.
    """
    config = Config()
    config.set_main_option("script_location", str(package / "migrations"))
    script = ScriptDirectory.from_config(config)
    engine = sa.create_engine(
        settings.database_url.get_secret_value(), connect_args=_ARGUMENTS, poolclass=sa.NullPool
    )
    with engine.connect() as lock, _alone(lock), engine.connect() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
        connection.rollback()
        known = [each.revision for each in script.walk_revisions()]
        if present is not None and present not in known:
            log.warning("database_is_ahead", revision=present, known=known[0])
            return
        config.attributes["connection"] = connection
        for revision in reversed(known[: known.index(present)] if present else known):
            _upgrade_to(config, connection, revision)
    engine.dispose()
    log.info("database_migrated")


def _upgrade_to(config: Config, connection: sa.Connection, revision: str) -> None:
    for attempt in Retrying(
        retry=retry_if_exception(_is_locked),
        wait=wait_random(0.2, 2),
        stop=stop_after_delay(_PATIENCE_SECONDS),
        before_sleep=_say_why,
        reraise=True,
    ):
        number = min(attempt.retry_state.attempt_number, len(_LOCK_TIMEOUTS))
        with attempt:
            connection.rollback()
            connection.execute(sa.text(f"SET lock_timeout = '{_LOCK_TIMEOUTS[number - 1]}'"))
            connection.commit()
            command.upgrade(config, revision)


@contextmanager
def _alone(connection: sa.Connection) -> Iterator[None]:
    """Wait for a concurrent `migrate`, which leaves nothing to do. It is asked again and again: a
    statement that waits would hold a snapshot, for whose end an index that is created waits."""
    connection.execution_options(isolation_level="AUTOCOMMIT")
    while not connection.scalar(_ALONE):
        time.sleep(1)
    yield  # the end of the connection releases the lock


def _is_locked(error: BaseException) -> bool:
    return isinstance(getattr(error, "orig", None), _LOCKED)


def _say_why(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("migration_waits_for_a_lock", error=describe(error) if error else None)


def run_environment() -> None:
    """Run the migrations; a service's `migrations/env.py` only calls this."""
    context.configure(
        connection=context.config.attributes.get("connection"),
        dialect_name="postgresql",
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def create_index(name: str, table: str, columns: Sequence[str], **options: Any) -> None:
    """Create an index on a table that is in use, in place of the one of that name, which serves
    until then. No reader or writer waits for it, so it waits for old transactions without a limit.
    It is a revision's only statement, because it runs in no transaction."""
    new = f"{name}_new"
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {new}")  # of a failed attempt
        op.create_index(new, table, columns, postgresql_concurrently=True, **options)
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"ALTER INDEX {new} RENAME TO {name}")


def change_rows(statement: str) -> None:
    """Change many rows, some at a time, so that no transaction waits long for one of them.

    `statement` changes at most `:most` rows, and each one once. It is a revision's only statement.
    """
    if context.is_offline_mode():
        op.execute(statement)
        return
    with op.get_context().autocommit_block():
        changing = sa.text(statement).bindparams(most=_ROWS_AT_ONCE)
        while op.get_bind().execute(changing).rowcount:
            pass


def create_tenant_table(name: str, *columns: SchemaItem) -> None:
    """Create a table whose rows belong to tenants, as `tenant_rows.TenantRow` describes them."""
    op.create_table(
        name,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
        *columns,
    )


def create_rate_limits() -> None:
    """Create the table of a service that limits its outgoing calls
    (`resilience/rate_limiter.py`)."""
    op.create_table(
        "rate_limits",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("full_at", sa.DateTime(timezone=True), nullable=False),
    )


def create_circuit_breakers() -> None:
    """Create the table of a service that calls others through a `CallGuard`
    (`resilience/circuit_store.py`)."""
    op.create_table(
        "circuit_breakers",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("worker", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column(
            "changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
    )


def create_messaging_tables() -> None:
    """Create inbox, outbox and schedules, for a service's first migration.

    They are not derived from `tables.py`, because a migration that has run must not change. A test
    compares both.
    """
    now = sa.func.now()
    time = sa.DateTime(timezone=True)
    op.create_table(
        "inbox",
        sa.Column("queue", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("received_at", time, nullable=False, server_default=now),
    )
    op.create_index("inbox_received_at", "inbox", ["received_at"])
    op.create_table(
        "outbox",
        sa.Column("position", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("exchange", sa.Text, nullable=False),
        sa.Column("routing_key", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", time, nullable=False, server_default=now),
        sa.Column("set_aside", sa.Text),
        # Rows live for milliseconds: vacuum must not wait until a fifth of a large table is dead.
        postgresql_with={
            "autovacuum_vacuum_scale_factor": "0.0",
            "autovacuum_vacuum_threshold": "5000",
        },
    )
    op.create_table(
        "schedules",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("expression", sa.Text, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("next_run_at", time, nullable=False),
        sa.Column("last_run_at", time),
        sa.Column("last_duration_seconds", sa.Float),
        sa.Column("last_outcome", sa.Text),
        sa.Column("last_result", sa.Text),
        sa.Column("cancelled_at", time),
        sa.Column("registered_at", time, nullable=False, server_default=now),
    )

"""Alembic migrations from each service's package."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command, context, op
from alembic.config import Config
from sqlalchemy.schema import SchemaItem

from common.db.database import CONNECT_ARGUMENTS
from common.observability.logging import get_logger
from common.settings import DatabaseSettings

log = get_logger(__name__)


def upgrade(settings: DatabaseSettings, package: Path) -> None:
    """Migrate the database to the newest version. Concurrent calls are safe."""
    config = Config()
    config.set_main_option("script_location", str(package / "migrations"))
    engine = sa.create_engine(
        settings.database_url.get_secret_value(), connect_args=CONNECT_ARGUMENTS
    )
    with engine.begin() as connection:
        # Held until the commit: a concurrent `migrate` waits here and then finds nothing to do.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('paybus-migrations'))"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()
    log.info("database_migrated")


def run_environment() -> None:
    """Run the migrations; a service's `migrations/env.py` only calls this."""
    context.configure(connection=context.config.attributes["connection"])
    context.run_migrations()


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

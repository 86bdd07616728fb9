"""Alembic migrations that live inside each service's package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command, context, op
from alembic.config import Config

from common.db.database import CONNECT_ARGUMENTS
from common.observability.logging import get_logger
from common.security.encryption import EncryptionSettings, SecretBox
from common.settings import DatabaseSettings, load_or_exit

log = get_logger(__name__)

_SEALED_AT_ONCE = 50


def upgrade(settings: DatabaseSettings, package: Path) -> None:
    """Bring the database to the newest version. Safe to run from several places at once."""
    config = Config()
    config.set_main_option("script_location", str(package / "migrations"))
    engine = sa.create_engine(
        settings.database_url.get_secret_value(), connect_args=CONNECT_ARGUMENTS
    )
    with engine.begin() as connection:
        # Held until the commit: a second migrate waits here and then finds nothing to do.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('paybus-migrations'))"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()
    log.info("database_migrated")


def run_environment() -> None:
    """The whole of every service's `migrations/env.py`."""
    context.configure(connection=context.config.attributes["connection"])
    context.run_migrations()


def index_inbox_by_age() -> None:
    """For a service's second migration: housekeeping looks for the oldest rows."""
    op.create_index("inbox_received_at", "inbox", ["received_at"])


def add_schedule_cancellation() -> None:
    """For a later migration of a service with schedules."""
    op.add_column("schedules", sa.Column("cancelled_at", sa.DateTime(timezone=True)))


def add_schedule_registration() -> None:
    """For a later migration of a service with schedules: which of them a running version has."""
    now = sa.func.now()
    time = sa.DateTime(timezone=True)
    op.add_column("schedules", sa.Column("registered_at", time, nullable=False, server_default=now))


def seal_rows(
    table: str,
    columns: Sequence[str],
    seal: Callable[[SecretBox, sa.RowMapping], Mapping[str, Any]],
) -> None:
    """Rewrite every row's `columns` as `seal` says, of rows that were kept in clear. Only where
    there are some must ENCRYPTION_KEYS be set."""
    connection = op.get_bind()
    described = sa.table(table, sa.column("id"), *(sa.column(each) for each in columns))
    following = sa.select(described).order_by(described.c.id).limit(_SEALED_AT_ONCE)
    found = connection.execute(following).mappings().all()
    vault = SecretBox(load_or_exit(EncryptionSettings).encryption_keys) if found else None
    while vault is not None and found:
        for row in found:
            this = described.c.id == row["id"]
            connection.execute(sa.update(described).where(this).values(seal(vault, row)))
        after = described.c.id > found[-1]["id"]
        found = connection.execute(following.where(after)).mappings().all()


def add_outbox_set_aside() -> None:
    """For a later migration of every service: rows that no broker takes."""
    op.add_column("outbox", sa.Column("set_aside", sa.Text))


def create_quota_table() -> None:
    """For a service that counts what it asks of others (`resilience/rate_limiter.py`)."""
    op.create_table(
        "quotas",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("full_at", sa.DateTime(timezone=True), nullable=False),
    )


def create_circuits_table() -> None:
    """For a service that calls outside systems through a `Gate` (`resilience/circuit_store.py`)."""
    op.create_table(
        "circuits",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("worker", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column(
            "changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
    )


def create_messaging_tables() -> None:
    """For a service's first migration: inbox, outbox and schedules as `tables.py` describes them.

    Written out, not derived: a migration that has run must not change. A test compares both.
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
    op.create_table(
        "outbox",
        sa.Column("position", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("exchange", sa.Text, nullable=False),
        sa.Column("routing_key", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", time, nullable=False, server_default=now),
        # Rows live for milliseconds; vacuum must not wait for a fifth of a large table.
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
    )

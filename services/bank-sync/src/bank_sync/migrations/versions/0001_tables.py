"""Bank data, under row-level security."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import SchemaItem

from common.db.migrations import (
    create_circuit_breakers,
    create_messaging_tables,
    create_rate_limits,
    create_tenant_table,
)

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.func.now()


def upgrade() -> None:
    create_messaging_tables()
    create_rate_limits()
    create_circuit_breakers()
    _create_bank_items()
    _create_accounts()
    _create_transactions()
    _create_sync_runs()
    _create_institutions()
    _create_institution_health()


def _of_tenant(name: str, *columns: SchemaItem) -> None:
    create_tenant_table(name, *columns)
    _secure(name)


def _secure(name: str) -> None:
    """Also against the table's owner, as which the service works."""
    op.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY of_tenant ON {name} USING "
        "(tenant = current_setting('paybus.tenant', true) "
        "OR current_setting('paybus.every_tenant', true) = 'on')"
    )


def _create_bank_items() -> None:
    _of_tenant(
        "bank_items",
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("institution_id", sa.Text),
        sa.Column("access_token", sa.Text, nullable=False),
        sa.Column("cursor", sa.Text, nullable=False, server_default=""),
        sa.Column("complete", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("health", sa.Text, nullable=False, server_default="healthy"),
        sa.Column("health_reason", sa.Text),
        sa.Column("health_until", _TIME),
        sa.Column("health_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("warning", sa.Text),
        sa.Column("warned_until", _TIME),
        sa.Column("version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("read_at", _TIME),
        sa.Column("synced_at", _TIME),
        sa.Column("next_sync_at", _TIME),
        sa.Column("removing_at", _TIME),
    )
    op.create_index("bank_items_page", "bank_items", ["tenant", "created_at", "id"])
    op.create_index("bank_items_next", "bank_items", ["next_sync_at"])


def _create_accounts() -> None:
    _of_tenant(
        "accounts",
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("official_name", sa.Text),
        sa.Column("mask", sa.Text),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("subtype", sa.Text),
        sa.Column("available", sa.BigInteger),
        sa.Column("current", sa.BigInteger),
        sa.Column("limit", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("unofficial_currency", sa.Boolean, nullable=False),
        sa.Column("balance_at", _TIME, nullable=False),
        sa.Column("live_at", _TIME),
        sa.Column("closed", sa.Boolean, nullable=False, server_default="false"),
    )
    op.create_index("accounts_item", "accounts", ["item"])
    op.create_index("accounts_page", "accounts", ["tenant", "created_at", "id"])


def _create_transactions() -> None:
    _of_tenant(
        "transactions",
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("transaction_id", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text),
        sa.Column("unofficial_currency", sa.Boolean, nullable=False),
        sa.Column("rounded", sa.Boolean, nullable=False),
        sa.Column("date", sa.Date, nullable=False),
        sa.Column("authorized_date", sa.Date),
        sa.Column("at", _TIME),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("merchant", sa.Text),
        sa.Column("pending", sa.Boolean, nullable=False),
        sa.Column("pending_transaction_id", sa.Text),
        sa.Column("channel", sa.Text),
        sa.Column("category", sa.Text),
        sa.Column("category_detailed", sa.Text),
    )
    op.create_index("transactions_page", "transactions", ["tenant", "date", "id"])
    op.create_index("transactions_item", "transactions", ["item"])
    op.create_index("transactions_account", "transactions", ["account", "date", "id"])


def _create_sync_runs() -> None:
    _of_tenant(
        "sync_runs",
        sa.Column("item", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("requested_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("started_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.Column("lease", sa.Text),
        sa.Column("lease_until", _TIME),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("restarts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("pages", sa.Integer, nullable=False, server_default="0"),
        sa.Column("added", sa.Integer, nullable=False, server_default="0"),
        sa.Column("modified", sa.Integer, nullable=False, server_default="0"),
        sa.Column("removed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("error", sa.Text),
    )
    op.create_index(
        "sync_runs_queued",
        "sync_runs",
        ["item"],
        unique=True,
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "sync_runs_running",
        "sync_runs",
        ["item"],
        unique=True,
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index("sync_runs_page", "sync_runs", ["tenant", "created_at", "id"])
    op.create_index("sync_runs_of_item", "sync_runs", ["item", "created_at"])
    op.create_index(
        "sync_runs_open",
        "sync_runs",
        ["requested_at"],
        postgresql_where=sa.text("status IN ('queued', 'running')"),
    )


def _create_institutions() -> None:
    _of_tenant(
        "institutions",
        sa.Column("institution_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("url", sa.Text),
        sa.Column("oauth", sa.Boolean, nullable=False),
    )


def _create_institution_health() -> None:
    op.create_table(
        "institution_health",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("institution_id", sa.Text, primary_key=True),
        sa.Column("hour", _TIME, primary_key=True),
        sa.Column("succeeded", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_error", sa.Text),
    )
    _secure("institution_health")

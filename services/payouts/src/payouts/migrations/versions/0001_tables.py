"""Recipients, payouts, the ledger and its audit log."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

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
    _create_recipients()
    _create_payouts()
    _create_attempts()
    _create_transfers()
    _create_batches()
    _create_ledger_entries()
    _create_balances()
    _create_audit_log()
    _create_audit_head()
    _create_tenant_controls()
    _create_recoveries()
    _create_daily_reports()
    _create_discrepancies()
    _create_audit_head_row()
    _refuse_changes("ledger_entries", "audit_log")


def _create_recipients() -> None:
    create_tenant_table(
        "recipients",
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("masked_details", sa.Text, nullable=False),
        sa.Column("provider_ref", sa.Text, nullable=False),
        sa.Column("blocked", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("schedule", JSONB, nullable=False),
        sa.Column("next_payout_at", _TIME),
        sa.Column("scheduled", sa.Integer, nullable=False, server_default="0"),
        sa.Column("details_changed_at", _TIME),
        sa.Column("details_changed_by", sa.Text),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index("recipients_page", "recipients", ["tenant", "created_at", "id"])
    op.create_index("recipients_provider_ref", "recipients", ["provider", "provider_ref"])
    op.create_index(
        "recipients_due",
        "recipients",
        ["next_payout_at"],
        postgresql_where=sa.text("next_payout_at IS NOT NULL"),
    )


def _create_payouts() -> None:
    create_tenant_table(
        "payouts",
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("request", JSONB, nullable=False),
        sa.Column("recipient_id", sa.Text, nullable=False),
        sa.Column("batch_id", sa.Text),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("fee", sa.BigInteger, nullable=False),
        sa.Column("fee_charged", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("amount_returned", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("funding", sa.Text, nullable=False),
        sa.Column("priority", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("credited_by", ARRAY(sa.Text), nullable=False, server_default="{}"),
        sa.Column("approved_by", sa.Text),
        sa.Column("approved_at", _TIME),
        sa.Column("adopted", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("next_action_at", _TIME),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("status_checks", sa.Integer, nullable=False, server_default="0"),
        sa.Column("transfer_id", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("submitted_at", _TIME),
        sa.Column("paid_at", _TIME),
        sa.Column("version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index("payouts_page", "payouts", ["tenant", "created_at", "id"])
    op.create_index("payouts_state", "payouts", ["tenant", "state", "created_at", "id"])
    op.create_index("payouts_recipient", "payouts", ["recipient_id", "created_at"])
    op.create_index(
        "payouts_batch", "payouts", ["batch_id"], postgresql_where=sa.text("batch_id IS NOT NULL")
    )
    op.create_index(
        "payouts_next",
        "payouts",
        ["state", "next_action_at"],
        postgresql_where=sa.text("next_action_at IS NOT NULL"),
    )
    op.create_index(
        "payouts_paid",
        "payouts",
        ["tenant", "paid_at"],
        postgresql_where=sa.text("paid_at IS NOT NULL"),
    )


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("payout_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("deadline", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        sa.Column("outcome", sa.Text),
        sa.Column("key_consumed", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("transfer_id", sa.Text),
        sa.Column("transfer_status", sa.Text),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("payout_id", "number"),
    )


def _create_transfers() -> None:
    op.create_table(
        "transfers",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("transfer_id", sa.Text, primary_key=True),
        sa.Column("payout_id", sa.Text),
        sa.Column("transfer_status", sa.Text),
        sa.Column("seen_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index("transfers_seen", "transfers", ["seen_at"])
    op.create_index(
        "transfers_payout",
        "transfers",
        ["payout_id"],
        postgresql_where=sa.text("payout_id IS NOT NULL"),
    )


def _create_batches() -> None:
    create_tenant_table(
        "batches",
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("payouts", sa.Integer, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    op.create_index("batches_page", "batches", ["tenant", "created_at", "id"])


def _create_ledger_entries() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("recipient_id", sa.Text, nullable=False),
        sa.Column("payout_id", sa.Text),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("audit_position", sa.BigInteger, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.CheckConstraint("amount > 0 AND source <> target", name="ledger_entries_moves"),
    )
    op.create_index("ledger_entries_recipient", "ledger_entries", ["recipient_id", "id"])
    op.create_index("ledger_entries_audit", "ledger_entries", ["audit_position"])


def _create_balances() -> None:
    op.create_table(
        "balances",
        sa.Column("recipient_id", sa.Text, primary_key=True),
        sa.Column("currency", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("platform", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("available", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("pending", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("paid", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("fees", sa.BigInteger, nullable=False, server_default="0"),
        sa.CheckConstraint(
            "platform + available + pending + paid + fees = 0", name="balances_sum_to_zero"
        ),
    )


def _create_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("data", JSONB, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )
    op.create_index("audit_log_subject", "audit_log", ["subject", "position"])
    op.create_index("audit_log_page", "audit_log", ["tenant", "position"])


def _create_audit_head() -> None:
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )


def _create_tenant_controls() -> None:
    op.create_table(
        "tenant_controls",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("paused", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("status_check_required_until", _TIME),
        sa.Column("actor", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("changed_at", _TIME, nullable=False, server_default=_NOW),
    )


def _create_recoveries() -> None:
    op.create_table(
        "recoveries",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("requested_at", _TIME, nullable=False),
        sa.Column("fault", sa.Text),
    )


def _create_daily_reports() -> None:
    op.create_table(
        "daily_reports",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("report", JSONB, nullable=False),
        sa.Column("written_at", _TIME, nullable=False, server_default=_NOW),
    )


def _create_discrepancies() -> None:
    create_tenant_table(
        "discrepancies",
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payout_id", sa.Text),
        sa.Column("transfer_id", sa.Text),
        sa.Column("ours", sa.Text),
        sa.Column("theirs", sa.Text),
        sa.Column("resolved_at", _TIME),
        sa.Column("resolved_by", sa.Text),
    )
    op.create_index("discrepancies_page", "discrepancies", ["tenant", "created_at", "id"])


def _create_audit_head_row() -> None:
    op.execute("INSERT INTO audit_head (id, position, hash) VALUES (1, 0, repeat('0', 64))")


def _refuse_changes(*tables: str) -> None:
    """Against mistakes: the tables' owner can drop the triggers, and `verify-ledger` detects what
    was changed without them."""
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is append-only: correct a wrong entry by a new one', TG_TABLE_NAME;
        END $$
        """
    )
    for table in tables:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )

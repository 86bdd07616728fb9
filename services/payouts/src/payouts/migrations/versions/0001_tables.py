"""The first tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from common.db.migrations import (
    add_schedule_cancellation,
    create_messaging_tables,
    create_quota_table,
    index_inbox_by_age,
)

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.func.now()


def upgrade() -> None:
    create_messaging_tables()
    index_inbox_by_age()
    add_schedule_cancellation()
    create_quota_table()
    _create_recipients()
    _create_payouts()
    _create_books()
    _create_reports()


def _of_tenant(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        *columns,
    )
    op.create_index(f"{name}_page", name, ["tenant", "created_at", "id"])


def _create_recipients() -> None:
    _of_tenant(
        "recipients",
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("shown", sa.Text, nullable=False),
        sa.Column("handle", sa.Text, nullable=False),
        sa.Column("blocked", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("schedule", JSONB, nullable=False),
        sa.Column("next_payout_at", _TIME),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index("recipients_handle", "recipients", ["provider", "handle"])
    op.create_index(
        "recipients_due",
        "recipients",
        ["next_payout_at"],
        postgresql_where=sa.text("next_payout_at IS NOT NULL"),
    )


def _create_payouts() -> None:
    _of_tenant(
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
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("funding", sa.Text, nullable=False),
        sa.Column("priority", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("approved_by", sa.Text),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("next_at", _TIME),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("looks", sa.Integer, nullable=False, server_default="0"),
        sa.Column("transfer_id", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("submitted_at", _TIME),
        sa.Column("paid_at", _TIME),
        sa.Column("version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("updated_at", _TIME, nullable=False, server_default=_NOW),
    )
    page = ["tenant", "state", "created_at", "id"]
    op.create_index("payouts_state", "payouts", page)
    op.create_index("payouts_recipient", "payouts", ["recipient_id", "created_at"])
    op.create_index(
        "payouts_batch",
        "payouts",
        ["batch_id"],
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "payouts_next",
        "payouts",
        ["state", "next_at"],
        postgresql_where=sa.text("next_at IS NOT NULL"),
    )
    op.create_index(
        "payouts_paid",
        "payouts",
        ["tenant", "paid_at"],
        postgresql_where=sa.text("paid_at IS NOT NULL"),
    )
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
        sa.Column("answered", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("transfer_id", sa.Text),
        sa.Column("fate", sa.Text),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("payout_id", "number"),
    )
    op.create_table(
        "transfers",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("transfer_id", sa.Text, primary_key=True),
        sa.Column("payout_id", sa.Text),
        sa.Column("fate", sa.Text),
        sa.Column("seen_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_index("transfers_seen", "transfers", ["seen_at"])
    _of_tenant(
        "batches",
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("payouts", sa.Integer, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    op.create_table(
        "controls",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("paused", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("ask_first_until", _TIME),
        sa.Column("by", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("changed_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_table(
        "circuits",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("worker", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("changed_at", _TIME, nullable=False, server_default=_NOW),
    )


def _create_books() -> None:
    op.create_table(
        "ledger",
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
        sa.CheckConstraint("amount > 0 AND source <> target", name="ledger_moves"),
    )
    op.create_index("ledger_recipient", "ledger", ["recipient_id", "id"])
    op.create_index("ledger_audit", "ledger", ["audit_position"])
    amounts = ("platform", "available", "pending", "paid", "fees")
    op.create_table(
        "balances",
        sa.Column("recipient_id", sa.Text, primary_key=True),
        sa.Column("currency", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        *(sa.Column(each, sa.BigInteger, nullable=False, server_default="0") for each in amounts),
        sa.CheckConstraint(f"{' + '.join(amounts)} = 0", name="balances_sum_to_zero"),
    )
    op.create_table(
        "audit",
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
    op.create_index("audit_subject", "audit", ["subject", "position"])
    op.create_index("audit_page", "audit", ["tenant", "position"])
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )
    op.execute("INSERT INTO audit_head (id, position, hash) VALUES (1, 0, repeat('0', 64))")
    # Against mistakes; who owns the tables can take the triggers away, and `verify-audit` finds
    # what was done then.
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is never changed: what was wrong is put right by a new entry',
                            TG_TABLE_NAME;
        END $$
        """
    )
    for table in ("ledger", "audit"):
        op.execute(
            f"CREATE TRIGGER {table}_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def _create_reports() -> None:
    op.create_table(
        "day_reports",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("report", JSONB, nullable=False),
        sa.Column("written_at", _TIME, nullable=False, server_default=_NOW),
    )
    _of_tenant(
        "differences",
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

"""Dead letters, replays and the index of the journal."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from common.db.migrations import create_messaging_tables, create_tenant_table

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.func.now()


def upgrade() -> None:
    create_messaging_tables()
    _create_dead_letter_groups()
    _create_dead_letters()
    _create_dead_letter_notes()
    _create_replays()
    _create_replay_items()
    _create_operator_actions()
    _create_journal_index()
    _create_queue_stats()
    _create_journal_cursor()


def _create_dead_letter_groups() -> None:
    op.create_table(
        "dead_letter_groups",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("error_class", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
    )


def _create_dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("group_id", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("event_id", sa.Text),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("correlation_id", sa.Text),
        sa.Column("time", _TIME),
        sa.Column("recorded_at", _TIME),
        sa.Column("sealed_body", sa.LargeBinary, nullable=False),
        sa.Column("headers", JSONB, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("stack", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("history", JSONB, nullable=False),
        sa.Column("dead_lettered_at", _TIME, nullable=False),
        sa.Column("failure_count", sa.Integer, nullable=False, server_default="1"),
        sa.Column("stored_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("item", sa.Text),
        sa.Column("resolved_at", _TIME),
        sa.Column("resolved_by", sa.Text),
        sa.Column("resolution_reason", sa.Text),
    )
    op.create_index("dead_letters_page", "dead_letters", ["state", "dead_lettered_at", "id"])
    op.create_index(
        "dead_letters_group", "dead_letters", ["group_id", "state", "dead_lettered_at", "id"]
    )
    op.create_index("dead_letters_subject", "dead_letters", ["subject"])
    op.create_index("dead_letters_correlation", "dead_letters", ["correlation_id"])


def _create_dead_letter_notes() -> None:
    op.create_table(
        "dead_letter_notes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("dead_letter_id", sa.Text, nullable=False),
        sa.Column("at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_index("dead_letter_notes_of_letter", "dead_letter_notes", ["dead_letter_id", "at"])


def _create_replays() -> None:
    create_tenant_table(
        "replays",
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.Column("rate", sa.Integer),
        sa.Column("concurrency", sa.Integer, nullable=False),
        sa.Column("journal", JSONB),
        sa.Column("confirmed_position", sa.BigInteger, nullable=False, server_default="-1"),
        sa.Column("lease", sa.Text),
        sa.Column("lease_until", _TIME),
        sa.Column("error", sa.Text),
    )
    op.create_index("replays_page", "replays", ["created_at", "id"])
    op.create_index(
        "replays_open",
        "replays",
        ["created_at"],
        postgresql_where=sa.text("state IN ('preparing', 'running')"),
    )


def _create_replay_items() -> None:
    op.create_table(
        "replay_items",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("replay_id", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("dead_letter_id", sa.Text),
        sa.Column("sealed_body", sa.LargeBinary),
        sa.Column("detail", sa.Text),
        sa.Column("expires_at", _TIME),
        sa.Column("sending_at", _TIME),
        sa.Column("completed_at", _TIME),
    )
    op.create_index("replay_items_next", "replay_items", ["replay_id", "state", "position"])
    op.create_index(
        "replay_items_expiring",
        "replay_items",
        ["replay_id", "expires_at"],
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_index(
        "replay_items_one_at_a_time",
        "replay_items",
        ["dead_letter_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('waiting', 'sending', 'sent')"),
    )


def _create_operator_actions() -> None:
    op.create_table(
        "operator_actions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
    )
    op.create_index("operator_actions_page", "operator_actions", ["at", "id"])


def _create_journal_index() -> None:
    op.create_table(
        "journal_index",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("exchange", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("causation_id", sa.Text),
        sa.Column("time", _TIME, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
    )
    op.create_index("journal_index_correlation", "journal_index", ["correlation_id"])
    op.create_index("journal_index_subject", "journal_index", ["subject"])
    op.create_index("journal_index_time", "journal_index", ["recorded_at"])


def _create_queue_stats() -> None:
    op.create_table(
        "queue_stats",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("messages", sa.Integer, nullable=False),
        sa.Column("consumers", sa.Integer, nullable=False),
        sa.Column("since", _TIME),
        sa.Column("at", _TIME, nullable=False),
    )


def _create_journal_cursor() -> None:
    op.create_table(
        "journal_cursor",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("missed", sa.BigInteger, nullable=False, server_default="0"),
    )

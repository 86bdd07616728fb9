"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from common.db.migrations import (
    add_schedule_cancellation,
    create_messaging_tables,
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
    _create_letters()
    _create_replays()
    _create_journal()
    op.create_table(
        "actions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
    )
    op.create_index("actions_page", "actions", ["at", "id"])
    op.create_table(
        "queues",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("messages", sa.Integer, nullable=False),
        sa.Column("consumers", sa.Integer, nullable=False),
        sa.Column("since", _TIME),
        sa.Column("at", _TIME, nullable=False),
    )


def _create_letters() -> None:
    op.create_table(
        "groups",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("error_class", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
    )
    op.create_table(
        "letters",
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
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("headers", JSONB, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("stack", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("history", JSONB, nullable=False),
        sa.Column("died_at", _TIME, nullable=False),
        sa.Column("deaths", sa.Integer, nullable=False, server_default="1"),
        sa.Column("stored_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("item", sa.Text),
        sa.Column("settled_at", _TIME),
        sa.Column("settled_by", sa.Text),
        sa.Column("settled_reason", sa.Text),
    )
    op.create_index("letters_page", "letters", ["state", "died_at", "id"])
    op.create_index("letters_group", "letters", ["group_id", "state", "died_at", "id"])
    op.create_index("letters_subject", "letters", ["subject"])
    op.create_index("letters_correlation", "letters", ["correlation_id"])
    op.create_table(
        "notes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("letter_id", sa.Text, nullable=False),
        sa.Column("at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_index("notes_letter", "notes", ["letter_id", "at"])


def _create_replays() -> None:
    op.create_table(
        "replays",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("ordered_by", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("started_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.Column("rate", sa.Integer),
        sa.Column("concurrency", sa.Integer, nullable=False),
        sa.Column("journal", JSONB),
        sa.Column("sent_up_to", sa.BigInteger, nullable=False, server_default="-1"),
        sa.Column("lease", sa.Text),
        sa.Column("lease_until", _TIME),
        sa.Column("error", sa.Text),
    )
    op.create_index("replays_page", "replays", ["created_at", "id"])
    runs = sa.text("state IN ('preparing', 'running')")
    op.create_index("replays_open", "replays", ["created_at"], postgresql_where=runs)
    op.create_table(
        "items",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("replay_id", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("letter_id", sa.Text),
        sa.Column("body", sa.LargeBinary),
        sa.Column("detail", sa.Text),
        sa.Column("expires_at", _TIME),
        sa.Column("sending_at", _TIME),
        sa.Column("settled_at", _TIME),
    )
    op.create_index("items_next", "items", ["replay_id", "state", "position"])
    expires = sa.text("expires_at IS NOT NULL")
    op.create_index(
        "items_expiring", "items", ["replay_id", "expires_at"], postgresql_where=expires
    )
    op.create_index(
        "items_one_at_a_time",
        "items",
        ["letter_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('waiting', 'sending', 'sent')"),
    )


def _create_journal() -> None:
    op.create_table(
        "journal",
        sa.Column("position", sa.BigInteger, primary_key=True),
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
    op.create_index("journal_correlation", "journal", ["correlation_id"])
    op.create_index("journal_subject", "journal", ["subject"])
    op.create_index("journal_time", "journal", ["recorded_at"])
    op.create_table(
        "journal_mark",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("missed", sa.BigInteger, nullable=False, server_default="0"),
    )

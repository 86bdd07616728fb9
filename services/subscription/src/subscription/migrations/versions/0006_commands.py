"""Commands about subscriptions and customers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "commands",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("request", JSONB, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
        sa.Column("result", JSONB),
        sa.Column("error", sa.Text),
        sa.Column("confirmed_at", _TIME),
        sa.Column("updated_at", _TIME, nullable=False, server_default=sa.func.now()),
    )
    op.create_index("commands_page", "commands", ["tenant", "created_at", "id"])
    op.create_index(
        "commands_unconfirmed",
        "commands",
        ["tenant", "subject"],
        postgresql_where=sa.text("confirmed_at IS NULL"),
    )
    op.create_index(
        "commands_open", "commands", ["updated_at"], postgresql_where=sa.text("status = 'open'")
    )

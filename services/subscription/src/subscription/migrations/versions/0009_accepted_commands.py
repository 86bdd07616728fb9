"""Commands that are accepted or withdrawn."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    for column in ("begun", "ended"):
        op.add_column("commands", sa.Column(column, sa.Integer, nullable=False, server_default="0"))
    op.add_column("commands", sa.Column("accepted_at", sa.DateTime(timezone=True)))
    op.drop_index("commands_open", "commands")
    op.create_index(
        "commands_unfinished",
        "commands",
        ["updated_at"],
        postgresql_where=sa.text("status IN ('open', 'accepted')"),
    )

"""What an event of the journal says, briefly."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("journal_index", sa.Column("summary", sa.Text))

"""The trace that an integration's retries belong to."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("integrations", sa.Column("correlation_id", sa.Text))

"""Whether an organization has got its admin: one that was suspended meanwhile may not have."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column(
        "integrations",
        sa.Column("admin_created", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.execute(
        "UPDATE integrations SET admin_created = true"
        " WHERE organization_id IS NOT NULL AND NOT outcome_unknown"
    )

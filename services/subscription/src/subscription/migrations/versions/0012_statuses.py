"""When a subscription was seen with which status. `turned_at` and `turned_status`, which say less,
are left to the version before."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column(
        "subscriptions", sa.Column("statuses", JSONB, nullable=False, server_default="[]")
    )
    op.execute(
        "UPDATE subscriptions SET statuses ="
        " jsonb_build_array(jsonb_build_object('at', turned_at, 'status', turned_status))"
        " WHERE turned_at IS NOT NULL"
    )

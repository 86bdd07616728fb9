"""What a restored database may have forgotten; who credited a payout, and who changed where it
goes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0002"
down_revision = "0001"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column(
        "recipients", sa.Column("scheduled", sa.Integer, nullable=False, server_default="0")
    )
    op.add_column("recipients", sa.Column("details_changed_at", _TIME))
    op.add_column("recipients", sa.Column("details_changed_by", sa.Text))
    op.add_column(
        "payouts", sa.Column("credited_by", ARRAY(sa.Text), nullable=False, server_default="{}")
    )
    op.add_column("payouts", sa.Column("approved_at", _TIME))
    op.add_column(
        "payouts", sa.Column("adopted", sa.Boolean, nullable=False, server_default="false")
    )
    op.create_index(
        "transfers_payout",
        "transfers",
        ["payout_id"],
        postgresql_where=sa.text("payout_id IS NOT NULL"),
    )
    op.create_table(
        "recoveries",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("provider", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("ordered_at", _TIME, nullable=False),
        sa.Column("fault", sa.Text),
    )

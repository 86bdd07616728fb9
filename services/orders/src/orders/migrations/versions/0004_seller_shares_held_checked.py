"""The constraint of the revision before holds for every row: this check blocks no writer."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE seller_shares VALIDATE CONSTRAINT seller_shares_held")

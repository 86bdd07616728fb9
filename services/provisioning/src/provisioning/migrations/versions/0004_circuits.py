"""What the workers' circuits do."""

from common.db.migrations import create_circuits_table

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    create_circuits_table()

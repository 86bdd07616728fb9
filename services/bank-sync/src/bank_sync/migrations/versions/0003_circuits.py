"""What the workers' circuits do."""

from common.db.migrations import create_circuits_table

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    create_circuits_table()

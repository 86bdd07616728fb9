"""What is searched is what is seen: the texts of before, which were not masked, are forgotten."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("UPDATE letters SET text = ''")

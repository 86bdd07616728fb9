"""Jobs can be cancelled."""

from common.db.migrations import add_schedule_cancellation

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    add_schedule_cancellation()

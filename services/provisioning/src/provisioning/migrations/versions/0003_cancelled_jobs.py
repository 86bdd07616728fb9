"""Jobs can be cancelled."""

from common.db.migrations import add_schedule_cancellation

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    add_schedule_cancellation()

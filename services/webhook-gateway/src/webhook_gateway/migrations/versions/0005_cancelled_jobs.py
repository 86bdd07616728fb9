"""Jobs can be cancelled."""

from common.db.migrations import add_schedule_cancellation

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    add_schedule_cancellation()

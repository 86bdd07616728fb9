"""Versions that run side by side leave each other's jobs alone; rows that no broker takes."""

from common.db.migrations import add_outbox_set_aside, add_schedule_registration

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    add_schedule_registration()
    add_outbox_set_aside()

"""Versions that run side by side leave each other's jobs alone."""

from common.migrations import add_schedule_registration

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    add_schedule_registration()

"""Versions that run side by side leave each other's jobs alone."""

from common.migrations import add_schedule_registration

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    add_schedule_registration()

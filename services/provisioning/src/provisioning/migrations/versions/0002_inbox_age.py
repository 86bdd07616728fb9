"""Housekeeping of the inbox."""

from common.db.migrations import index_inbox_by_age

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    index_inbox_by_age()

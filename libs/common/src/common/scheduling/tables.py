"""Table of scheduled jobs."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Float,
    Table,
    Text,
    func,
)

from common.messaging.tables import metadata

schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("expression", Text, nullable=False),
    Column("paused", Boolean, nullable=False, server_default="false"),
    Column("next_run_at", DateTime(timezone=True), nullable=False),
    Column("last_run_at", DateTime(timezone=True)),
    Column("last_duration_seconds", Float),
    Column("last_outcome", Text),
    Column("last_result", Text),
    Column("cancelled_at", DateTime(timezone=True)),
    Column("registered_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

"""The tables that messaging and the scheduler keep in every service's database."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
)

metadata = MetaData()

inbox = Table(
    "inbox",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("inbox_received_at", "received_at"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("position", BigInteger, Identity(always=True), primary_key=True),
    Column("exchange", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # No broker takes it, and why: a person has to look at it.
    Column("set_aside", Text),
)

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

"""The operations service's tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Index, LargeBinary, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from common.contracts.event import derived_id


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - as SQLAlchemy expects it
        str: Text,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        list[str]: ARRAY(Text),
    }


class DeadLetterGroup(Base):
    """Dead letters of one queue and event type that failed for the same reason."""

    __tablename__ = "dead_letter_groups"

    id: Mapped[str] = mapped_column(primary_key=True)
    queue: Mapped[str]
    type: Mapped[str]
    error_class: Mapped[str]
    summary: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class DeadLetter(Base):
    """A message that a queue's service dead-lettered: one row per queue and event.

    `sealed_body` (the encrypted message body) and `headers` are sent again in a replay. `source` to
    `recorded_at` are the event's; they are null if it could not be decoded. `dead_lettered_at` is
    the time of the last failure, `failure_count` the number of failures. `item` is the item of the
    replay that holds it now.
    """

    __tablename__ = "dead_letters"

    id: Mapped[str] = mapped_column(primary_key=True)
    queue: Mapped[str]
    state: Mapped[str]
    group_id: Mapped[str]
    source: Mapped[str | None]
    event_id: Mapped[str | None]
    type: Mapped[str]
    tenant: Mapped[str | None]
    subject: Mapped[str | None]
    correlation_id: Mapped[str | None]
    time: Mapped[datetime | None]
    recorded_at: Mapped[datetime | None]
    sealed_body: Mapped[bytes]
    headers: Mapped[dict[str, Any]]
    text: Mapped[str]
    reason: Mapped[str]
    error: Mapped[str]
    stack: Mapped[str]
    attempts: Mapped[int]
    history: Mapped[list[Any]]
    dead_lettered_at: Mapped[datetime]
    failure_count: Mapped[int] = mapped_column(server_default="1")
    stored_at: Mapped[datetime] = mapped_column(server_default=func.now())
    item: Mapped[str | None]
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None]
    resolution_reason: Mapped[str | None]

    __table_args__ = (
        Index("dead_letters_page", "state", "dead_lettered_at", "id"),
        Index("dead_letters_group", "group_id", "state", "dead_lettered_at", "id"),
        Index("dead_letters_subject", "subject"),
        Index("dead_letters_correlation", "correlation_id"),
    )


class DeadLetterNote(Base):
    """A note about a dead letter."""

    __tablename__ = "dead_letter_notes"

    id: Mapped[str] = mapped_column(primary_key=True)
    dead_letter_id: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    text: Mapped[str]

    __table_args__ = (Index("dead_letter_notes_of_letter", "dead_letter_id", "at"),)


class Replay(Base):
    """A replay: a set of messages to send again, fixed once it is written.

    `rate` is in messages a second, `concurrency` the maximum number of messages with their
    consumers. The broker has confirmed all messages up to `confirmed_position`. `lease` belongs to
    the worker that runs the replay. `journal` is set if the source is a window of the journal, not
    dead letters.
    """

    __tablename__ = "replays"

    id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    description: Mapped[str]
    reason: Mapped[str]
    tenant: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    rate: Mapped[int | None]
    concurrency: Mapped[int]
    journal: Mapped[dict[str, Any] | None]
    confirmed_position: Mapped[int] = mapped_column(BigInteger, server_default="-1")
    lease: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    error: Mapped[str | None]

    __table_args__ = (
        Index("replays_page", "created_at", "id"),
        Index(
            "replays_open",
            "created_at",
            postgresql_where=text("state IN ('preparing', 'running')"),
        ),
    )


class ReplayItem(Base):
    """One message of a replay. `sealed_body` is set if the message is not a dead letter's. It is
    not sent after `expires_at`."""

    __tablename__ = "replay_items"

    id: Mapped[str] = mapped_column(primary_key=True)
    replay_id: Mapped[str]
    position: Mapped[int] = mapped_column(BigInteger)
    queue: Mapped[str]
    state: Mapped[str]
    dead_letter_id: Mapped[str | None]
    sealed_body: Mapped[bytes | None]
    detail: Mapped[str | None]
    expires_at: Mapped[datetime | None]
    sending_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]

    __table_args__ = (
        Index("replay_items_next", "replay_id", "state", "position"),
        Index(
            "replay_items_expiring",
            "replay_id",
            "expires_at",
            postgresql_where=text("expires_at IS NOT NULL"),
        ),
        # A dead letter can be in only one replay at a time.
        Index(
            "replay_items_one_at_a_time",
            "dead_letter_id",
            unique=True,
            postgresql_where=text("state IN ('waiting', 'sending', 'sent')"),
        ),
    )


class OperatorAction(Base):
    """An operator's action: the actor, the action, its time and its reason."""

    __tablename__ = "operator_actions"

    id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    tenant: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    reason: Mapped[str | None]

    __table_args__ = (Index("operator_actions_page", "at", "id"),)


class JournalEntry(Base):
    """An event of the journal, by its offset in the stream. Its body stays in the stream."""

    __tablename__ = "journal_index"

    offset: Mapped[int] = mapped_column("position", BigInteger, primary_key=True)
    exchange: Mapped[str]
    type: Mapped[str]
    source: Mapped[str]
    event_id: Mapped[str]
    tenant: Mapped[str]
    subject: Mapped[str]
    correlation_id: Mapped[str]
    causation_id: Mapped[str | None]
    summary: Mapped[str | None]
    time: Mapped[datetime]
    recorded_at: Mapped[datetime]

    __table_args__ = (
        Index("journal_index_correlation", "correlation_id"),
        Index("journal_index_subject", "subject"),
        Index("journal_index_time", "recorded_at"),
    )


class QueueStats(Base):
    """The broker's latest report on a queue; `since` is set while the queue is not empty."""

    __tablename__ = "queue_stats"

    name: Mapped[str] = mapped_column(primary_key=True)
    messages: Mapped[int]
    consumers: Mapped[int]
    since: Mapped[datetime | None]
    at: Mapped[datetime]


class JournalCursor(Base):
    """The offset up to which the journal is indexed."""

    __tablename__ = "journal_cursor"

    id: Mapped[int] = mapped_column(primary_key=True)
    offset: Mapped[int] = mapped_column("position", BigInteger)
    missed: Mapped[int] = mapped_column(BigInteger, server_default="0")


def dead_letter_id(queue: str, *identity: str) -> str:
    return derived_id("dead letter", queue, *identity)

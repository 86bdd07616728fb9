"""What operators are shown. Times are UTC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from common.observability.redaction import Redactor

# Whoever names a thing may name it by an e-mail address or the number of a card.
Name = Annotated[str, AfterValidator(Redactor())]


class Row(BaseModel):
    model_config = ConfigDict(from_attributes=True)


RowT = TypeVar("RowT", bound=Row)


async def shown(kind: type[RowT], rows: Sequence[object]) -> list[RowT]:
    """A view of each row. Many names take a while to mask, so that is done beside the event
    loop."""
    return await asyncio.to_thread(lambda: [kind.model_validate(each) for each in rows])


class LetterView(Row):
    """A dead letter in a list."""

    id: str
    queue: str
    state: str
    group_id: str
    type: Name
    tenant: str | None
    subject: Name | None
    correlation_id: Name | None
    reason: str
    error: str
    attempts: int
    failure_count: int
    dead_lettered_at: datetime


class NoteView(Row):
    at: datetime
    actor: str
    text: str


class EntryView(Row):
    """An event of the journal."""

    offset: int
    exchange: str
    type: Name
    source: Name
    event_id: Name
    tenant: str
    subject: Name
    correlation_id: Name
    causation_id: Name | None
    time: datetime
    recorded_at: datetime


class LetterDetail(LetterView):
    """`payload` is the event with secrets and personal data masked; `history` has each attempt;
    `neighbours` are events of the same subject; `stack` is whole."""

    event_id: Name | None
    source: Name | None
    time: datetime | None
    recorded_at: datetime | None
    stored_at: datetime
    payload: Any
    history: list[Any]
    stack: str
    resolved_at: datetime | None
    resolved_by: str | None
    resolution_reason: str | None
    notes: list[NoteView]
    neighbours: list[EntryView]


class GroupView(Row):
    """Dead letters that failed for the same reason: how many, when the first and the last of them
    died, and how many did in the last hour and the one before."""

    id: str
    queue: str
    type: Name
    error_class: str
    summary: str
    count: int
    first: datetime
    last: datetime
    last_hour: int
    previous_hour: int


class LetterPage(BaseModel):
    items: list[LetterView]
    next_cursor: str | None


class EntryPage(BaseModel):
    items: list[EntryView]
    next_cursor: str | None


class ForecastView(Row):
    """`send` by queue; `skip` by reason."""

    send: dict[str, int]
    skip: dict[str, int]


class ReplayView(Row):
    """`counts` is by state of its messages, `remaining_seconds` an estimate; `error` is why it does
    not go on just now."""

    id: str
    state: str
    description: str
    reason: str
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    rate: int | None
    concurrency: int
    counts: dict[str, int]
    total: int
    completed: int
    remaining_seconds: float | None = Field(default=None)


class ReplayPage(BaseModel):
    items: list[ReplayView]
    next_cursor: str | None


class ItemView(Row):
    """One message of a replay, and what became of it."""

    id: str
    position: int
    queue: str
    state: str
    dead_letter_id: str | None
    detail: str | None
    sending_at: datetime | None
    completed_at: datetime | None


class ItemPage(BaseModel):
    items: list[ItemView]
    next_cursor: str | None


class ActionView(Row):
    """Who did what."""

    id: str
    at: datetime
    actor: str
    tenant: str
    action: str
    subject: Name
    reason: str | None


class ActionPage(BaseModel):
    items: list[ActionView]
    next_cursor: str | None


class Step(BaseModel):
    """An event in the life of one correlation id: `after_seconds` since the first."""

    after_seconds: float
    entry: EntryView


class Trace(BaseModel):
    """The life of a correlation id over all services, and its dead letters."""

    correlation_id: Name
    steps: list[Step]
    dead_letters: list[LetterView]


class Moved(BaseModel):
    """How many dead letters it was."""

    count: int

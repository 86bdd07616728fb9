"""The responses of the operators' API. Times are UTC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from common.observability.redaction import Redactor

# A caller may have named an object by an e-mail address or a card number.
Name = Annotated[str, AfterValidator(Redactor())]


class Row(BaseModel):
    model_config = ConfigDict(from_attributes=True)


RowT = TypeVar("RowT", bound=Row)


async def shown(kind: type[RowT], rows: Sequence[object]) -> list[RowT]:
    """Return a view of each row, off the event loop, because masking many names takes a while."""
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
    """An event of the journal. `summary` is its status, its amount in minor units, the provider's
    account that it belongs to, and why it has no effect, as far as it contains them."""

    offset: int
    exchange: str
    type: Name
    source: Name
    event_id: Name
    tenant: str
    subject: Name
    correlation_id: Name
    causation_id: Name | None
    summary: Name | None
    time: datetime
    recorded_at: datetime


class LetterDetail(LetterView):
    """`payload` is the event with secrets and personal data masked; `history` has each attempt;
    `neighbours` are events of the same subject; `stack` is the error's stack trace, masked."""

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
    """Dead letters that failed for the same reason: their number, when the first and the last of
    them failed, and how many failed in the last hour and in the hour before."""

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
    """The forecast of a replay: `send` is by queue, `skip` by reason."""

    send: dict[str, int]
    skip: dict[str, int]


class ReplayView(Row):
    """`counts` is by state of the replay's messages, `remaining_seconds` an estimate; `error` is
    why it is interrupted now."""

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
    """One message of a replay and its outcome."""

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
    """An operator's action."""

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
    """An event in the life of a correlation id, `after_seconds` after the first."""

    after_seconds: float
    entry: EntryView


class Trace(BaseModel):
    """The life of a correlation id across all services, and its dead letters."""

    correlation_id: Name
    steps: list[Step]
    dead_letters: list[LetterView]


class Moved(BaseModel):
    """The number of dead letters that changed."""

    count: int

"""The request bodies of the operators' API."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from common.http.requests import RequestModel
from operations.replay.journal_window import JournalWindow
from operations.selection import Filter, ReplayRequest

Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=500),
    Field(description="recorded in the action log with the caller and the time"),
]
Rate = Annotated[
    int | None, Field(ge=1, le=100_000, description="messages per second; null for no limit")
]
Concurrency = Annotated[
    int, Field(ge=1, le=100_000, description="the maximum number of messages in flight")
]


# Larger selections need a filter.
_MOST_IDS = 5_000


class DeadLetterSelection(RequestModel):
    """The dead letters to act on: either `ids`, or all that match `filter`. The filter `{}` matches
    all open ones."""

    ids: Annotated[list[str], Field(min_length=1, max_length=_MOST_IDS)] | None = None
    filter: Filter | None = None
    reason: Reason

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give either ids or a filter")
        return self

    def wish(self) -> ReplayRequest:
        return ReplayRequest(self.filter or Filter(), self.ids, self.reason, None, 1)


class ReplayBody(DeadLetterSelection):
    rate: Rate = None
    concurrency: Concurrency = 1000
    dry_run: bool = False

    def wish(self) -> ReplayRequest:
        return ReplayRequest(
            self.filter or Filter(), self.ids, self.reason, self.rate, self.concurrency
        )


class JournalReplayBody(RequestModel):
    window: JournalWindow
    reason: Reason
    rate: Rate = None
    concurrency: Concurrency = 1000


class ReasonBody(RequestModel):
    reason: Reason


class NewNote(RequestModel):
    text: Annotated[str, Field(min_length=1, max_length=10_000)]


class Edit(RequestModel):
    """Changes to the event's `data`: a JSON merge patch (RFC 7396). Fields that are left out stay
    as they are; null removes a field."""

    changes: dict[str, Any] = Field(min_length=1)
    reason: Reason

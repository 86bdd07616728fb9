"""The selection of dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.observability.redaction import Redactor
from operations.domain import LetterState

_redact = Redactor()

Word = Annotated[str, Field(min_length=1, max_length=255)]


def is_masked(name: str) -> bool:
    """Return whether viewers see a name masked."""
    return _redact(name) != name


class Filter(BaseModel):
    """Every given field must match. `type` may end with `*`. `error` is searched in the error,
    `text` in the error and the message, both ignoring case; `since` and `until` (UTC) limit the
    time of the last failure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: LetterState | Literal["any"] = LetterState.OPEN
    queue: Word | None = None
    type: Word | None = None
    group: Word | None = None
    error_class: Word | None = None
    error: Word | None = None
    tenant: Word | None = None
    subject: Word | None = None
    correlation_id: Word | None = None
    text: Word | None = None
    since: datetime | None = None
    until: datetime | None = None

    @model_validator(mode="after")
    def _has_zones(self) -> Self:
        for moment in (self.since, self.until):
            if moment is not None and moment.tzinfo is None:
                raise ValueError("since and until need a time zone, such as 2026-11-22T10:00:00Z")
        return self

    @model_validator(mode="after")
    def _is_not_masked(self) -> Self:
        """Reject masked values: a caller could otherwise find them by trial."""
        for word in (self.subject, self.correlation_id, self.type):
            if word is not None and is_masked(word):
                raise ValueError("masked values can't be searched")
        return self


@dataclass(frozen=True)
class ReplayRequest:
    """The dead letters, the reason, and the speed: `rate` is in messages a second, `concurrency`
    limits the messages that are with their consumers. Either `ids`, or all that match `filter`."""

    filter: Filter
    ids: Sequence[str] | None
    reason: str
    rate: int | None
    concurrency: int

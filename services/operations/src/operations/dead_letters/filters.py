"""Which dead letters somebody means: filters, pages, groups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import ColumnElement, Select, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import load_only

from common.db.pagination import decode_cursor
from common.errors import Invalid
from common.observability.redaction import Redactor
from operations.domain import LetterState
from operations.models import DeadLetter, DeadLetterGroup
from operations.schemas import GroupView, LetterView, shown

_redact = Redactor()
_MOST_GROUPS = 500
# Of a letter in a list: its message and stack may be of many MiB together.
_LISTED = load_only(
    *(getattr(DeadLetter, name) for name in LetterView.model_fields), raiseload=True
)


def is_masked(name: str) -> bool:
    """Whether a name is one that viewers don't see."""
    return _redact(name) != name


Word = Annotated[str, Field(min_length=1, max_length=255)]


class Filter(BaseModel):
    """All that is given must be so. `type` may end with `*`. `error` is looked for in the error,
    `text` there and in the message, upper or lower case; `since` and `until` are about when it
    died, UTC."""

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
        """Or who sees it masked could find it out."""
        for word in (self.subject, self.correlation_id, self.type):
            if word is not None and is_masked(word):
                raise ValueError("what is masked where it is shown can't be looked for")
        return self

    def conditions(self, tenant: str | None) -> list[ColumnElement[bool]]:
        """`tenant` is the only one whose letters may be seen; null for all of them."""
        equal = {
            DeadLetter.state: None if self.state == "any" else self.state,
            DeadLetter.queue: self.queue,
            DeadLetter.group_id: self.group,
            DeadLetter.subject: self.subject,
            DeadLetter.correlation_id: self.correlation_id,
        }
        found = [column == value for column, value in equal.items() if value is not None]
        if self.type is not None:
            several = DeadLetter.type.startswith(self.type.removesuffix("*"), autoescape=True)
            found.append(several if self.type.endswith("*") else DeadLetter.type == self.type)
        for one in (self.tenant, tenant):
            if one is not None:
                found.append(DeadLetter.tenant == one)
        if self.error_class is not None:
            groups = select(DeadLetterGroup.id).where(
                DeadLetterGroup.error_class == self.error_class
            )
            found.append(DeadLetter.group_id.in_(groups))
        if self.error is not None:
            found.append(DeadLetter.error.icontains(self.error, autoescape=True))
        if self.text is not None:
            places = (DeadLetter.text, DeadLetter.error)
            found.append(or_(*(each.icontains(self.text, autoescape=True) for each in places)))
        if self.since is not None:
            found.append(DeadLetter.dead_lettered_at >= self.since)
        if self.until is not None:
            found.append(DeadLetter.dead_lettered_at < self.until)
        return found


def listed() -> Select[Any]:
    """Letters as a list shows them, without what was sent."""
    return select(DeadLetter).options(_LISTED)


async def page(
    session: AsyncSession, request: Filter, tenant: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[DeadLetter], bool]:
    """The newest failure_count first, and whether there are more."""
    query: Select[Any] = listed().where(*request.conditions(tenant))
    if cursor is not None:
        at, id_ = decode_cursor(cursor, 2)
        query = query.where(
            tuple_(DeadLetter.dead_lettered_at, DeadLetter.id) < tuple_(_moment(at), id_)
        )
    query = query.order_by(DeadLetter.dead_lettered_at.desc(), DeadLetter.id.desc()).limit(
        limit + 1
    )
    found = (await session.scalars(query)).all()
    return found[:limit], len(found) > limit


async def groups(session: AsyncSession, request: Filter, tenant: str | None) -> list[GroupView]:
    """Of the letters that fit: the largest 500."""
    counted = (
        select(
            DeadLetter.group_id.label("id"),
            func.count().label("count"),
            func.min(DeadLetter.dead_lettered_at).label("first"),
            func.max(DeadLetter.dead_lettered_at).label("last"),
            *died_lately(),
        )
        .where(*request.conditions(tenant))
        .group_by(DeadLetter.group_id)
        .subquery()
    )
    query = (
        select(
            counted,
            DeadLetterGroup.queue,
            DeadLetterGroup.type,
            DeadLetterGroup.error_class,
            DeadLetterGroup.summary,
        )
        .join(DeadLetterGroup, counted.c.id == DeadLetterGroup.id)
        .order_by(counted.c.count.desc(), DeadLetterGroup.id)
        .limit(_MOST_GROUPS)
    )
    return await shown(GroupView, (await session.execute(query)).all())


def died_lately() -> list[ColumnElement[int]]:
    """How many in the last hour (`last_hour`), and in the one before (`previous_hour`)."""
    hour = func.make_interval(0, 0, 0, 0, 1)
    since = func.now() - hour
    return [
        func.count().filter(DeadLetter.dead_lettered_at >= since).label("last_hour"),
        func.count()
        .filter(DeadLetter.dead_lettered_at < since, DeadLetter.dead_lettered_at >= since - hour)
        .label("previous_hour"),
    ]


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise Invalid("the cursor is not one that this endpoint gave out") from None

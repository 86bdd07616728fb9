"""Which dead letters somebody means: filters, pages, groups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import ColumnElement, Select, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from common.errors import Invalid
from common.http import decode_cursor
from common.redaction import Redactor
from operations.domain import LetterState
from operations.models import Group, Letter
from operations.views import GroupView

_redact = Redactor()


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
            Letter.state: None if self.state == "any" else self.state,
            Letter.queue: self.queue,
            Letter.group_id: self.group,
            Letter.subject: self.subject,
            Letter.correlation_id: self.correlation_id,
        }
        found = [column == value for column, value in equal.items() if value is not None]
        if self.type is not None:
            several = Letter.type.startswith(self.type.removesuffix("*"), autoescape=True)
            found.append(several if self.type.endswith("*") else Letter.type == self.type)
        for one in (self.tenant, tenant):
            if one is not None:
                found.append(Letter.tenant == one)
        if self.error_class is not None:
            groups = select(Group.id).where(Group.error_class == self.error_class)
            found.append(Letter.group_id.in_(groups))
        if self.error is not None:
            found.append(Letter.error.icontains(self.error, autoescape=True))
        if self.text is not None:
            places = (Letter.text, Letter.error)
            found.append(or_(*(each.icontains(self.text, autoescape=True) for each in places)))
        if self.since is not None:
            found.append(Letter.died_at >= self.since)
        if self.until is not None:
            found.append(Letter.died_at < self.until)
        return found


async def page(
    session: AsyncSession, wanted: Filter, tenant: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[Letter], bool]:
    """The newest deaths first, and whether there are more."""
    query: Select[Any] = select(Letter).where(*wanted.conditions(tenant))
    if cursor is not None:
        at, id_ = decode_cursor(cursor, 2)
        query = query.where(tuple_(Letter.died_at, Letter.id) < tuple_(_moment(at), id_))
    query = query.order_by(Letter.died_at.desc(), Letter.id.desc()).limit(limit + 1)
    found = (await session.scalars(query)).all()
    return found[:limit], len(found) > limit


async def groups(session: AsyncSession, wanted: Filter, tenant: str | None) -> list[GroupView]:
    """Of the letters that fit; the largest first."""
    counted = (
        select(
            Letter.group_id.label("id"),
            func.count().label("count"),
            func.min(Letter.died_at).label("first"),
            func.max(Letter.died_at).label("last"),
            *died_lately(),
        )
        .where(*wanted.conditions(tenant))
        .group_by(Letter.group_id)
        .subquery()
    )
    query = (
        select(counted, Group.queue, Group.type, Group.error_class, Group.summary)
        .join(Group, counted.c.id == Group.id)
        .order_by(counted.c.count.desc(), Group.id)
    )
    return [GroupView.model_validate(row) for row in (await session.execute(query)).all()]


def died_lately() -> list[ColumnElement[int]]:
    """How many in the last hour (`last_hour`), and in the one before (`hour_before`)."""
    hour = func.make_interval(0, 0, 0, 0, 1)
    since = func.now() - hour
    return [
        func.count().filter(Letter.died_at >= since).label("last_hour"),
        func.count()
        .filter(Letter.died_at < since, Letter.died_at >= since - hour)
        .label("hour_before"),
    ]


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise Invalid("the cursor is not one that this endpoint gave out") from None

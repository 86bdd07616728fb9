"""Shared parts of all services' `/v1` APIs: dependencies, the session, and pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, FastAPI, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from common.db import pagination, tenant_rows
from common.db.database import Sessions
from common.db.pagination import encode_cursor
from common.db.tenant_rows import RowT
from common.http.auth import Authenticator
from common.http.throttling import Throttle
from common.settings import AuthSettings

PartT = TypeVar("PartT")


def provide(app: FastAPI, *parts: object) -> None:
    """Make `parts` available to the app's endpoints, which name them by type."""
    app.state.parts = {type(part): part for part in parts}


def part_of(request: Request, kind: type[PartT]) -> PartT:
    """Return the app's part of this type."""
    part: PartT = request.app.state.parts[kind]
    return part


def provided(kind: type[PartT]) -> Any:
    """Return the part as a dependency: `Annotated[Accounts, provided(Accounts)]`."""

    def find(request: Request) -> PartT:
        return part_of(request, kind)

    return Depends(find)


SessionFactory = Annotated[Sessions, provided(async_sessionmaker)]


async def _session(sessions: SessionFactory) -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


# Closed before the response is sent: a caller who reads slowly holds no pooled connection.
Session = Annotated[AsyncSession, Depends(_session, scope="function")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the previous page")]
Limit = Annotated[int, Query(ge=1, le=200)]
IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="chosen by the caller; the same request with the same key is executed once",
    ),
]


def secure(app: FastAPI, settings: AuthSettings) -> None:
    """Make the middleware authenticate the app's callers and limit their rate."""
    app.state.authenticator = Authenticator(settings)
    app.state.throttle = Throttle(settings)


class View(BaseModel):
    """Row as an API returns it."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    created_at: datetime = Field(description="when Paybus first recorded it, UTC")


ViewT = TypeVar("ViewT", bound=View)


class Page(BaseModel, Generic[ViewT]):
    """Page of results; `next_cursor` is null on the last one."""

    items: list[ViewT]
    next_cursor: str | None


async def page(
    session: AsyncSession,
    table: type[RowT],
    view: type[ViewT],
    tenant: str,
    filters: Mapping[str, Any],
    cursor: str | None,
    limit: int,
) -> Page[ViewT]:
    query = tenant_rows.filtered(table, tenant, filters)
    found, more = await pagination.page(session, query, table, cursor=cursor, limit=limit)
    return as_page([view.model_validate(row) for row in found], more)


def as_page(views: list[ViewT], more: bool) -> Page[ViewT]:
    last = encode_cursor(views[-1].created_at.isoformat(), views[-1].id) if more else None
    return Page[ViewT](items=views, next_cursor=last)

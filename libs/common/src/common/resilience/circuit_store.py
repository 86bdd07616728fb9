"""Latest circuit states of a service's workers: for operators only, `CallGuard` decides without
them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Column, DateTime, MetaData, Row, Table, Text, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.db.database import Sessions
from common.observability.logging import get_logger
from common.resilience.call_guard import CLOSED, OnChange

log = get_logger(__name__)

# A state that has not changed for this long is obsolete: its worker is gone.
_KEEP = timedelta(days=7)

metadata = MetaData()

circuit_breakers = Table(
    "circuit_breakers",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("worker", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)


class CircuitView(BaseModel):
    """Circuit of the account `name`, such as `stripe/default`; `state` is `opened` or
    `half-opened`."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    worker: str
    state: str
    changed_at: datetime


class Circuits:
    """Record of the states of this worker's circuits."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._worker = socket.gethostname()
        self._latest: dict[tuple[str, str], str] = {}
        self._writing: asyncio.Task[None] | None = None

    def listener(self, tenant: str, name: str) -> OnChange:
        """Return the `on_change` of a tenant's account for its `CallGuard`."""
        return lambda state: self._changed(tenant, name, state)

    def _changed(self, tenant: str, name: str, state: str) -> None:
        self._latest[tenant, name] = state
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="circuits")

    async def _write(self) -> None:
        """Write one state after the other, so that the latest one remains."""
        while self._latest:
            (tenant, name), state = self._latest.popitem()
            row = insert(circuit_breakers).values(
                tenant=tenant, name=name, worker=self._worker, state=state
            )
            kept = row.on_conflict_do_update(
                index_elements=["tenant", "name", "worker"],
                set_={"state": state, "changed_at": func.now()},
            )
            old = delete(circuit_breakers).where(circuit_breakers.c.changed_at < func.now() - _KEEP)
            try:
                async with self._sessions.begin() as session:
                    await session.execute(kept)
                    await session.execute(old)
            except Exception:
                log.exception("circuit_state_save_failed", circuit=name, state=state)


async def not_closed(session: AsyncSession, tenant: str | None = None) -> list[CircuitView]:
    """Return the circuits that are not closed, of one tenant or of all."""
    query = select(circuit_breakers).where(circuit_breakers.c.state != CLOSED)
    if tenant is not None:
        query = query.where(circuit_breakers.c.tenant == tenant)
    found: Sequence[Row[Any]] = (
        await session.execute(query.order_by(circuit_breakers.c.name))
    ).all()
    return [CircuitView.model_validate(each) for each in found]

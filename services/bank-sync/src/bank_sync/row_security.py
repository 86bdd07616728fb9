"""Row-level security: which tenant's rows a transaction can access, whatever its queries omit.

Every table with tenants' data has one policy: a row is visible to its tenant only, which each
transaction states in the setting `paybus.tenant`, or to work for all tenants, which is stated in
`paybus.every_tenant`. A transaction that states neither sees no rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from common.db.database import Sessions

_SAY = text(
    "SELECT set_config('paybus.tenant', :tenant, true), "
    "set_config('paybus.every_tenant', :every, true)"
)
_TENANT = "tenant"


async def set_tenant(session: AsyncSession, tenant: str | None) -> None:
    """Set the tenant for the rest of this transaction; None for every tenant."""
    await session.execute(_SAY, _settings(tenant))


def _settings(tenant: str | None) -> dict[str, str]:
    return {"tenant": tenant or "", "every": "off" if tenant is not None else "on"}


class TenantSessions:
    """Sessions that set their tenant at the start of each transaction; None for every tenant."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def session(self, tenant: str | None) -> AsyncSession:
        session = self._sessions()
        session.sync_session.info[_TENANT] = tenant
        event.listen(session.sync_session, "after_begin", _say)
        return session

    @asynccontextmanager
    async def begin(self, tenant: str | None) -> AsyncIterator[AsyncSession]:
        async with self.session(tenant) as session, session.begin():
            yield session


def _say(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if not transaction.nested:
        connection.execute(_SAY, _settings(session.info[_TENANT]))

"""The service's tables. All except those of messaging and the rate limits are under row-level
security (`row_security.py`). Money is in minor units; of unofficial currencies in
hundred-millionths."""

from __future__ import annotations

import datetime as dt
from datetime import datetime

from sqlalchemy import BigInteger, Index, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from common.contracts.event import derived_id
from common.db.tenant_rows import TYPES, TenantRow


class Base(DeclarativeBase):
    type_annotation_map = TYPES


class Item(TenantRow, Base):
    """A customer's login at one bank. `access_token` is encrypted.

    `health_at` is the time of the newest report about it, `warning` means that the link ends at
    `warned_until` unless the user acts; `read_at` is when the last successful sync began,
    `synced_at` when it ended; `next_sync_at` is when it is synced without a request; `removing_at`
    is since when it is being removed.
    """

    __tablename__ = "bank_items"

    client: Mapped[str]
    item_id: Mapped[str]
    user: Mapped[str]
    institution_id: Mapped[str | None]
    access_token: Mapped[str]
    cursor: Mapped[str] = mapped_column(default="")
    complete: Mapped[bool] = mapped_column(default=False)
    health: Mapped[str] = mapped_column(default="healthy")
    health_reason: Mapped[str | None]
    health_until: Mapped[datetime | None]
    health_at: Mapped[datetime] = mapped_column(server_default=func.now())
    warning: Mapped[str | None]
    warned_until: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(default=0)
    read_at: Mapped[datetime | None]
    synced_at: Mapped[datetime | None]
    # When everything was last read again because the provider refused the cursor.
    resynced_at: Mapped[datetime | None]
    next_sync_at: Mapped[datetime | None]
    removing_at: Mapped[datetime | None]

    __table_args__ = (
        Index("bank_items_page", "tenant", "created_at", "id"),
        Index("bank_items_next", "next_sync_at"),
    )

    @property
    def readable(self) -> bool:
        """Whether the provider may be queried about the item."""
        return self.removing_at is None and self.health != "revoked"


class Account(TenantRow, Base):
    """`balance_at` is when the figures were last read, `live_at` when they were last queried from
    the bank itself; `closed` means that the bank no longer lists the account."""

    __tablename__ = "accounts"

    item: Mapped[str]
    account_id: Mapped[str]
    name: Mapped[str]
    official_name: Mapped[str | None]
    mask: Mapped[str | None]
    type: Mapped[str]
    subtype: Mapped[str | None]
    available: Mapped[int | None] = mapped_column(BigInteger)
    current: Mapped[int | None] = mapped_column(BigInteger)
    limit: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None]
    unofficial_currency: Mapped[bool]
    balance_at: Mapped[datetime]
    live_at: Mapped[datetime | None]
    closed: Mapped[bool] = mapped_column(default=False)

    __table_args__ = (
        Index("accounts_item", "item"),
        Index("accounts_page", "tenant", "created_at", "id"),
    )


class Transaction(TenantRow, Base):
    """`amount` is positive when the money leaves the account, as in Plaid's API."""

    __tablename__ = "transactions"

    item: Mapped[str]
    account: Mapped[str]
    transaction_id: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str | None]
    unofficial_currency: Mapped[bool]
    rounded: Mapped[bool]
    date: Mapped[dt.date]
    authorized_date: Mapped[dt.date | None]
    at: Mapped[datetime | None]
    name: Mapped[str]
    merchant: Mapped[str | None]
    pending: Mapped[bool]
    pending_transaction_id: Mapped[str | None]
    channel: Mapped[str | None]
    category: Mapped[str | None]
    category_detailed: Mapped[str | None]

    __table_args__ = (
        Index("transactions_page", "tenant", "date", "id"),
        Index("transactions_item", "item"),
        Index("transactions_account", "account", "date", "id"),
    )


class Sync(TenantRow, Base):
    """`queued`, `running`, then `done`, `failed` or `cancelled`; an item has at most one queued and
    one running sync. The worker that runs it holds `lease` until `lease_until`."""

    __tablename__ = "sync_runs"

    item: Mapped[str]
    cause: Mapped[str]
    status: Mapped[str]
    requested_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    lease: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    attempts: Mapped[int] = mapped_column(default=0)
    restarts: Mapped[int] = mapped_column(default=0)
    pages: Mapped[int] = mapped_column(default=0)
    added: Mapped[int] = mapped_column(default=0)
    modified: Mapped[int] = mapped_column(default=0)
    removed: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None]

    __table_args__ = (
        Index("sync_runs_queued", "item", unique=True, postgresql_where=text("status = 'queued'")),
        Index(
            "sync_runs_running", "item", unique=True, postgresql_where=text("status = 'running'")
        ),
        Index("sync_runs_page", "tenant", "created_at", "id"),
        Index("sync_runs_of_item", "item", "created_at"),
        Index(
            "sync_runs_open",
            "requested_at",
            postgresql_where=text("status IN ('queued', 'running')"),
        ),
    )


class Institution(TenantRow, Base):
    __tablename__ = "institutions"

    institution_id: Mapped[str]
    name: Mapped[str]
    url: Mapped[str | None]
    oauth: Mapped[bool]


class InstitutionHour(Base):
    """Outcomes of the syncs at an institution in one hour (UTC)."""

    __tablename__ = "institution_health"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    institution_id: Mapped[str] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    succeeded: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    last_error: Mapped[str | None]


def item_id(tenant: str, item_id: str) -> str:
    return derived_id("bank items", tenant, item_id)


def account_id(item: str, account_id: str) -> str:
    return derived_id("bank accounts", item, account_id)


def institution_id(tenant: str, institution_id: str) -> str:
    return derived_id("institutions", tenant, institution_id)

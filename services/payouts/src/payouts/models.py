"""Database tables of the payouts service."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from common.contracts.event import derived_id
from common.db.tenant_rows import TYPES, TenantRow


class Base(DeclarativeBase):
    type_annotation_map = {**TYPES, dict[str, Any]: JSONB}  # noqa: RUF012 - as SQLAlchemy expects it


class Recipient(TenantRow, Base):
    """A recipient. `details`, where the money goes, are encrypted; users see `masked_details`."""

    __tablename__ = "recipients"

    reference: Mapped[str]
    name: Mapped[str]
    provider: Mapped[str]
    account: Mapped[str]
    currency: Mapped[str]
    details: Mapped[str]
    masked_details: Mapped[str]
    # The recipient's identifier in the provider's reports; not a secret.
    provider_ref: Mapped[str]
    blocked: Mapped[bool] = mapped_column(server_default="false")
    schedule: Mapped[dict[str, Any]]
    next_payout_at: Mapped[datetime | None]
    # How many payouts its schedule has made. The number names the next one, also after a restore.
    scheduled: Mapped[int] = mapped_column(server_default="0")
    details_changed_at: Mapped[datetime | None]
    details_changed_by: Mapped[str | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    __table_args__ = (
        Index("recipients_page", "tenant", "created_at", "id"),
        Index("recipients_provider_ref", "provider", "provider_ref"),
        Index(
            "recipients_due", "next_payout_at", postgresql_where=text("next_payout_at IS NOT NULL")
        ),
    )


class Payout(TenantRow, Base):
    """A payout. Its id is our reference at the provider. Amounts are in minor units.

    `due_at` is when it may be sent, `next_action_at` when it has to be processed next.
    """

    __tablename__ = "payouts"

    idempotency_key: Mapped[str]
    request: Mapped[dict[str, Any]]
    recipient_id: Mapped[str]
    batch_id: Mapped[str | None]
    provider: Mapped[str]
    account: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    fee: Mapped[int] = mapped_column(BigInteger)
    fee_charged: Mapped[bool] = mapped_column(server_default="false")
    # The part of a paid payout that came back; 0 for a `returned` one, which came back in full.
    amount_returned: Mapped[int] = mapped_column(BigInteger, server_default="0")
    currency: Mapped[str]
    funding: Mapped[str]
    priority: Mapped[str]
    state: Mapped[str]
    held: Mapped[bool] = mapped_column(server_default="false")
    created_by: Mapped[str]
    # Users whose credits this payout pays: they can't approve it either.
    credited_by: Mapped[list[str]] = mapped_column(server_default="{}")
    approved_by: Mapped[str | None]
    approved_at: Mapped[datetime | None]
    # Found in the provider's list, after a restored database had forgotten it.
    adopted: Mapped[bool] = mapped_column(server_default="false")
    due_at: Mapped[datetime]
    next_action_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default="0")
    failures: Mapped[int] = mapped_column(server_default="0")
    status_checks: Mapped[int] = mapped_column(server_default="0")
    transfer_id: Mapped[str | None]
    error: Mapped[str | None]
    submitted_at: Mapped[datetime | None]
    paid_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default="0")
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    @property
    def recipient(self) -> str:
        """Return the recipient's reference."""
        return str(self.request["recipient"])

    @property
    def description(self) -> str | None:
        found: str | None = self.request.get("description")
        return found

    __table_args__ = (
        Index("payouts_page", "tenant", "created_at", "id"),
        Index("payouts_state", "tenant", "state", "created_at", "id"),
        Index("payouts_recipient", "recipient_id", "created_at"),
        Index("payouts_batch", "batch_id", postgresql_where=text("batch_id IS NOT NULL")),
        Index(
            "payouts_next",
            "state",
            "next_action_at",
            postgresql_where=text("next_action_at IS NOT NULL"),
        ),
        Index("payouts_paid", "tenant", "paid_at", postgresql_where=text("paid_at IS NOT NULL")),
    )


class Attempt(Base):
    """One send attempt, stored before the call. `outcome` is null while it runs; if its process
    died, until a status check finds that, or permanently if a webhook comes first.
    `transfer_status` merges all that the provider reported about its transfer."""

    __tablename__ = "attempts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    payout_id: Mapped[str]
    number: Mapped[int]
    idempotency_key: Mapped[str]
    started_at: Mapped[datetime]
    deadline: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    key_consumed: Mapped[bool] = mapped_column(server_default="false")
    # Encrypted, as the recipient's were then: status checks query for what was sent.
    details: Mapped[str]
    transfer_id: Mapped[str | None]
    transfer_status: Mapped[str | None]
    error: Mapped[str | None]

    __table_args__ = (UniqueConstraint("payout_id", "number"),)


class Transfer(Base):
    """A provider's transfer, from a response or a webhook, whichever came first. Without
    `payout_id` it is not ours, or its response was lost."""

    __tablename__ = "transfers"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(primary_key=True)
    transfer_id: Mapped[str] = mapped_column(primary_key=True)
    payout_id: Mapped[str | None]
    transfer_status: Mapped[str | None]
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        Index("transfers_seen", "seen_at"),
        Index("transfers_payout", "payout_id", postgresql_where=text("payout_id IS NOT NULL")),
    )


class Batch(TenantRow, Base):
    """Payouts that were created together."""

    __tablename__ = "batches"

    idempotency_key: Mapped[str]
    name: Mapped[str]
    digest: Mapped[str]
    payouts: Mapped[int]
    created_by: Mapped[str]

    __table_args__ = (Index("batches_page", "tenant", "created_at", "id"),)


class LedgerEntry(Base):
    """A ledger entry. A trigger refuses changes. `audit_position` is that of the audit entry of its
    action."""

    __tablename__ = "ledger_entries"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant: Mapped[str]
    recipient_id: Mapped[str]
    payout_id: Mapped[str | None]
    currency: Mapped[str]
    source: Mapped[str]
    target: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    audit_position: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime]

    __table_args__ = (
        Index("ledger_entries_recipient", "recipient_id", "id"),
        Index("ledger_entries_audit", "audit_position"),
    )


class Balance(Base):
    """The sums of a recipient's ledger entries in minor units, updated with them."""

    __tablename__ = "balances"

    recipient_id: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    platform: Mapped[int] = mapped_column(BigInteger, server_default="0")
    available: Mapped[int] = mapped_column(BigInteger, server_default="0")
    pending: Mapped[int] = mapped_column(BigInteger, server_default="0")
    paid: Mapped[int] = mapped_column(BigInteger, server_default="0")
    fees: Mapped[int] = mapped_column(BigInteger, server_default="0")


class AuditEntry(Base):
    """An audit entry: who did what, when and why. It has the hash of the entry before. A trigger
    refuses changes."""

    __tablename__ = "audit_log"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    tenant: Mapped[str]
    actor: Mapped[str]
    role: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    before: Mapped[str | None]
    after: Mapped[str | None]
    reason: Mapped[str | None]
    data: Mapped[dict[str, Any]]
    hash: Mapped[str]

    __table_args__ = (
        Index("audit_log_subject", "subject", "position"),
        Index("audit_log_page", "tenant", "position"),
    )


class AuditHead(Base):
    """The newest entry's position and hash: one row, locked while an entry is appended."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str]


class TenantControl(Base):
    """A tenant's emergency stop. After a restore, and until `status_check_required_until`, each
    payout's status is checked before it is sent, because the database may have forgotten that it
    was sent."""

    __tablename__ = "tenant_controls"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    paused: Mapped[bool] = mapped_column(server_default="false")
    status_check_required_until: Mapped[datetime | None]
    actor: Mapped[str | None]
    reason: Mapped[str | None]
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Recovery(Base):
    """A day (UTC) of an account that was not reconciled with the provider since the database was
    restored, so that payouts of the day may be missing. While there is one, nothing is sent from
    the account or scheduled there. `fault` is why the last reconciliation did not complete it."""

    __tablename__ = "recoveries"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    requested_at: Mapped[datetime]
    fault: Mapped[str | None]


class DailyReport(Base):
    """A tenant's report of a day (UTC): payouts by state, and the balances when the report was
    written."""

    __tablename__ = "daily_reports"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    report: Mapped[dict[str, Any]]
    written_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Discrepancy(TenantRow, Base):
    """A discrepancy between the provider's records and ours on a day (UTC). `resolved_at` is when
    both agreed again, or when the user `resolved_by` resolved it."""

    __tablename__ = "discrepancies"

    day: Mapped[date]
    provider: Mapped[str]
    account: Mapped[str]
    kind: Mapped[str]
    payout_id: Mapped[str | None]
    transfer_id: Mapped[str | None]
    ours: Mapped[str | None]
    theirs: Mapped[str | None]
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None]

    __table_args__ = (Index("discrepancies_page", "tenant", "created_at", "id"),)


def recipient_id(tenant: str, reference: str) -> str:
    return derived_id("recipients", tenant, reference)


def square_key(transfer_id: str) -> str:
    """Return the key of a payout that Square made on its own schedule."""
    return f"square:{transfer_id}"


def payout_id(tenant: str, key: str) -> str:
    """Return the payout's id. `key` is the caller's Idempotency-Key, or derives from the payout's
    cause."""
    return derived_id("payouts", tenant, key)

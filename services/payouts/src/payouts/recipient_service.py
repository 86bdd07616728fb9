"""Recipients: their details, and what they are credited."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import derived_id
from common.db import tenant_rows
from common.errors import Conflict, Invalid
from common.scheduling.scheduler import Cron
from payouts import repository
from payouts.ledger import repository as ledger
from payouts.ledger.audit_log import Action, Actor, Posting
from payouts.ledger.entries import Entry
from payouts.ledger.entries import LedgerAccount as Ledger
from payouts.ledger.unit_of_work import PayoutUnitOfWork
from payouts.models import Recipient, recipient_id
from payouts.providers.base import read_details
from payouts.providers.recipient_details import RecipientDetailsCipher
from payouts.providers.registry import READ_ONLY, Accounts
from payouts.schemas import Credit, NewRecipient, RecipientChange, Schedule


class RecipientService:
    """Changes of recipients. Everything runs in the caller's transaction."""

    def __init__(self, accounts: Accounts, details: RecipientDetailsCipher) -> None:
        self._accounts = accounts
        self._details = details

    async def add(
        self, session: AsyncSession, tenant: str, by: Actor, request: NewRecipient
    ) -> Recipient:
        """Add a recipient; repeating the same request returns the existing one. Raises `Conflict`
        if the reference belongs to a different recipient, `Invalid` for details or a currency that
        the account can't pay."""
        account = self._accounts.find(tenant, request.provider, request.account)
        details = read_details(account.client.details_model, request.details)
        if account.pays and not account.limit(request.currency):
            raise Invalid(f"{account.path} makes no payouts in {request.currency}")
        now = await tenant_rows.database_now(session)
        values = {
            "id": recipient_id(tenant, request.reference),
            "tenant": tenant,
            "reference": request.reference,
            "name": request.name,
            "provider": request.provider,
            "account": request.account,
            "currency": request.currency,
            "details": self._details.seal(details),
            "masked_details": details.masked_details,
            "provider_ref": details.provider_ref,
            "schedule": request.schedule.model_dump(mode="json"),
            "next_payout_at": next_payout(request.schedule, now),
            "details_changed_at": now,
            "details_changed_by": by.name,
        }
        row, is_new = await repository.intend_recipient(session, values)
        if not is_new:
            self._same_recipient(row, request, details)
            return row
        await _note(session, row, by, "add", None)
        return row

    async def change(
        self, session: AsyncSession, tenant: str, id_: str, by: Actor, change: RecipientChange
    ) -> Recipient:
        await tenant_rows.get_for_tenant(session, Recipient, tenant, id_)
        row = await session.get_one(Recipient, id_, with_for_update=True, populate_existing=True)
        now = await tenant_rows.database_now(session)
        if change.name is not None:
            row.name = change.name
        if change.details is not None:
            account = self._accounts.find(tenant, row.provider, row.account)
            details = read_details(account.client.details_model, change.details)
            row.details, row.masked_details = self._details.seal(details), details.masked_details
            row.provider_ref = details.provider_ref
            row.details_changed_at, row.details_changed_by = now, by.name
        if change.blocked is not None:
            row.blocked = change.blocked
        if change.schedule is not None:
            row.schedule = change.schedule.model_dump(mode="json")
            row.next_payout_at = next_payout(change.schedule, now)
        changed = sorted(change.model_dump(exclude={"reason"}, exclude_none=True))
        await _note(session, row, by, f"change {', '.join(changed)}", change.reason)
        return row

    async def credit(
        self, session: AsyncSession, tenant: str, id_: str, key: str, by: Actor, credit: Credit
    ) -> bool:
        """Credit the recipient once for each key; return whether the credit is new.

        Raises `Conflict` if the key was used for another credit.
        """
        await tenant_rows.get_for_tenant(session, Recipient, tenant, id_)
        # A concurrent credit to the same recipient waits here, and then sees this one.
        recipient = await session.get_one(
            Recipient, id_, with_for_update=True, populate_existing=True
        )
        return await post(
            session,
            recipient,
            by,
            subject=f"credit/{derived_id('credits', tenant, id_, key)}",
            action="credit",
            entry=Entry(Ledger.PLATFORM, Ledger.AVAILABLE, credit.amount),
            currency=credit.currency,
            reason=credit.reason,
        )

    def _same_recipient(self, row: Recipient, request: NewRecipient, details: Any) -> None:
        same = (
            row.name == request.name
            and (row.provider, row.account, row.currency)
            == (request.provider, request.account, request.currency)
            and self._details.open(row.provider, row.details) == details
        )
        if not same:
            raise Conflict(f"the recipient {row.reference} exists already and differs")


async def post(
    session: AsyncSession,
    recipient: Recipient,
    by: Actor,
    *,
    subject: str,
    action: str,
    entry: Entry,
    currency: str,
    reason: str,
) -> bool:
    """Post an entry between a (locked) recipient and the platform, once for each subject;
    return whether it is new.

    Raises `Conflict` if the subject was used for a different entry, `Invalid` if the recipient
    can't have this entry.
    """
    if recipient.provider in READ_ONLY:
        raise Invalid(f"{recipient.provider} pays {recipient.reference} by itself")
    if currency != recipient.currency:
        raise Invalid(f"{recipient.reference} is paid in {recipient.currency}")
    content = [entry.amount, currency, reason]
    for before in await ledger.audit_of(session, subject, 1):
        if before.data[action] != content:
            raise Conflict("this Idempotency-Key was used for another credit")
        return False
    books = PayoutUnitOfWork(session, await tenant_rows.database_now(session))
    books.audit(
        Action(
            at=books.now,
            tenant=recipient.tenant,
            actor=by,
            action=action,
            subject=subject,
            reason=reason,
            posted=[Posting(recipient.id, currency, entry)],
            data={action: content},
        )
    )
    await books.flush()
    return True


def next_payout(schedule: Schedule, after: datetime) -> datetime | None:
    """Return when the schedule pays next (UTC); None for `manual`, which never pays, and
    `threshold`, which pays by balance."""
    if schedule.kind in {"manual", "threshold"}:
        return None
    return Cron(schedule.expression, schedule.zone).next_after(after.astimezone(UTC))


async def _note(
    session: AsyncSession, row: Recipient, by: Actor, action: str, reason: str | None
) -> None:
    books = PayoutUnitOfWork(session, await tenant_rows.database_now(session))
    # Details do not belong in a log, neither encrypted nor in plain text.
    data = {
        "masked_details": row.masked_details,
        "blocked": row.blocked,
        "schedule": row.schedule,
    }
    books.audit(
        Action(
            at=books.now,
            tenant=row.tenant,
            actor=by,
            action=action,
            subject=f"recipient/{row.id}",
            reason=reason,
            data=data,
        )
    )
    await books.flush()

"""Actions of users on a payout, and on all payouts of a tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.db import tenant_rows
from common.errors import Conflict, Forbidden
from common.http.auth import Caller
from payouts import domain, repository
from payouts.domain import State, Transition
from payouts.execution import planner
from payouts.ledger import repository as ledger
from payouts.ledger.audit_log import PAYBUS, Action, Actor
from payouts.ledger.unit_of_work import PayoutUnitOfWork
from payouts.models import Discrepancy, Payout, Recipient, Recovery, TenantControl
from payouts.payout_service import check_reconciled
from payouts.providers.registry import READ_ONLY, Accounts


def actor(caller: Caller) -> Actor:
    """Return the caller as an actor. Raises `Forbidden` for a user with the name of Paybus
    itself."""
    if caller.subject == PAYBUS.name:
        raise Forbidden(f"{PAYBUS.name!r} is reserved for the system: use a token of a person")
    return Actor(caller.subject, caller.role.name.lower())


async def approve(session: AsyncSession, row: Payout, by: Actor, reason: str | None) -> None:
    """Approve a payout. Raises `Forbidden` for a user who created it, credited what it pays, or was
    the last to change its destination, since its creation or, if Paybus created it, at any time:
    two persons are needed over the complete chain."""
    if row.state == State.SCHEDULED:
        recipient = await session.get_one(Recipient, row.recipient_id, populate_existing=True)
        _second_person(row, recipient, by)
    books = await _books(session)
    to = domain.transition(State(row.state), Transition.APPROVE)
    row.approved_by, row.approved_at = by.name, books.now
    row.next_action_at = None if row.held else max(row.due_at, books.now)
    books.transition(row, to, action=Transition.APPROVE, actor=by, reason=reason)
    await _close(books, row)


def _second_person(row: Payout, recipient: Recipient, by: Actor) -> None:
    if row.created_by == by.name:
        raise Forbidden("the person who ordered a payout can't approve it: another person must")
    if by.name in row.credited_by:
        raise Forbidden(
            "a person who credited the money of a payout can't approve it: another person must"
        )
    changed_at = recipient.details_changed_at
    # A user who creates a payout has seen the destination; a schedule or an event has not.
    unseen = row.created_by == PAYBUS.name or (changed_at and changed_at > row.created_at)
    if recipient.details_changed_by == by.name and unseen:
        raise Forbidden(
            "the person who changed a payout's destination last can't approve it, unless another "
            "person ordered it since: another person must"
        )


async def hold(session: AsyncSession, row: Payout, by: Actor, reason: str) -> None:
    """Keep the payout from being sent until it is released. Holding it twice has no further
    effect."""
    if not domain.can_hold(State(row.state)):
        raise Conflict(f"the payout is {row.state} and can't be held any more")
    if row.held:
        return
    books = await _books(session)
    row.held = True
    if row.state != State.UNKNOWN:  # its status checks continue
        row.next_action_at = None
    books.annotate(row, by, "hold", reason)
    await _close(books, row)


async def release(session: AsyncSession, row: Payout, by: Actor, reason: str) -> None:
    if not row.held:
        raise Conflict("the payout is not held")
    books = await _books(session)
    row.held = False
    if row.state == State.APPROVED:
        row.next_action_at = max(row.due_at, books.now)
    elif row.state == State.FAILED:
        wait = None if row.provider in READ_ONLY else domain.retry_after(row.failures)
        row.next_action_at = books.now + wait if wait is not None else None
    books.annotate(row, by, "release", reason)
    await _close(books, row)


async def cancel(session: AsyncSession, row: Payout, by: Actor, reason: str) -> None:
    books = await _books(session)
    to = domain.transition(State(row.state), Transition.CANCEL)
    row.next_action_at = None
    row.held = False
    books.transition(row, to, action=Transition.CANCEL, actor=by, reason=reason)
    await _close(books, row)


async def retry(
    session: AsyncSession, row: Payout, by: Actor, reason: str, *, accounts: Accounts
) -> None:
    """Send a failed or returned payout again; its status is checked at the provider first. A
    returned payout is paid with other money now: its approval is void, and the user who retries it
    counts among its requesters.

    Raises `Conflict` in another state or if too little is available, `NotYet` while a restored
    database may have forgotten payouts made since the backup.
    """
    if row.provider in READ_ONLY:
        raise Conflict(f"{row.provider} pays by itself: there is nothing to retry")
    books = await _books(session)
    to = domain.transition(State(row.state), Transition.RETRY)
    row.held = False
    row.next_action_at = books.now
    if row.state == State.RETURNED:
        recipient = await session.get_one(Recipient, row.recipient_id)
        # The schedule may have paid the returned money, by a payout that the database has
        # forgotten.
        check_reconciled(recipient, await repository.unreconciled(session))
        needed, there = await _take_from_balance(session, row)
        account = accounts.find(row.tenant, row.provider, row.account)
        if account.needs_approval(needed, row.currency):
            to = State.SCHEDULED
            credited_by = await ledger.creditors(session, recipient, there)
            row.credited_by = sorted({*credited_by, by.name})
            row.approved_by = row.approved_at = row.next_action_at = None
    books.transition(row, to, action=Transition.RETRY, actor=by, reason=reason)
    await _close(books, row)


async def _take_from_balance(session: AsyncSession, row: Payout) -> tuple[int, int]:
    """Return the amount needed and the amount available (minor units). Raises `Conflict` if too
    little is available: the money that came back may be in another payout by now."""
    available = await ledger.available_balances(session, [row.recipient_id])
    there = available[row.recipient_id, row.currency]
    needed = row.amount + (0 if row.fee_charged else row.fee)
    if there < needed:
        raise Conflict(f"{there} {row.currency} are available (minor units), not {needed}")
    return needed, there


async def resolve(session: AsyncSession, id_: str, by: Actor, reason: str) -> Discrepancy:
    """Resolve a discrepancy; it opens again if one side changes, or if it is not found once and
    then comes back. Raises `Conflict` if it is resolved already."""
    row = await session.get_one(Discrepancy, id_, with_for_update=True, populate_existing=True)
    if row.resolved_at is not None:
        raise Conflict("the discrepancy is already resolved")
    books = await _books(session)
    row.resolved_at, row.resolved_by = books.now, by.name
    books.audit(
        Action(books.now, row.tenant, by, "resolve", f"discrepancy/{row.id}", reason=reason)
    )
    await books.flush()
    return row


async def pause(
    session: AsyncSession, tenant: str, by: Actor, reason: str, *, paused: bool
) -> TenantControl:
    """Set (`paused`) or end the emergency stop: once it is committed, no intent to send is created
    for the tenant. `until_nothing_begins` waits for those that exist."""
    action = "pause" if paused else "resume"
    return await _control(session, tenant, by, action, reason, {"paused": paused})


async def require_status_check_until(
    session: AsyncSession,
    tenant: str,
    by: Actor,
    reason: str,
    *,
    until: datetime,
    unreconciled: Sequence[Recovery],
) -> TenantControl:
    """Require a status check before each payout until `until` (UTC), even of payouts without a
    recorded attempt: a restored database has forgotten what it did since its backup. Nothing is
    sent from the unreconciled accounts, or created there, before these days are compared."""
    await repository.set_recoveries(session, tenant, unreconciled)
    return await _control(
        session, tenant, by, "ask first", reason, {"status_check_required_until": until}
    )


async def until_nothing_begins(session: AsyncSession, tenant: str) -> None:
    """After the emergency stop was set, wait until every intent was acted upon or has expired. An
    intent is acted upon within seconds, or never."""
    oldest = planner.FRESH + _CLOCKS_DIFFER
    while await repository.is_about_to_send(session, tenant, oldest):
        await session.rollback()  # hold no transaction open meanwhile
        await asyncio.sleep(_LOOK_SECONDS)


_CLOCKS_DIFFER = timedelta(seconds=1)
_LOOK_SECONDS = 0.1


async def _control(
    session: AsyncSession, tenant: str, by: Actor, action: str, reason: str, values: dict[str, Any]
) -> TenantControl:
    control = await repository.set_control(session, tenant, by.name, reason, values)
    books = await _books(session)
    subject = f"tenant/{tenant}"
    books.audit(Action(books.now, tenant, by, action, subject, reason=reason))
    await books.flush()
    return control


async def _books(session: AsyncSession) -> PayoutUnitOfWork:
    return PayoutUnitOfWork(session, await tenant_rows.database_now(session))


async def _close(books: PayoutUnitOfWork, row: Payout) -> None:
    if (
        row.state == State.APPROVED
        and row.next_action_at is not None
        and row.next_action_at <= books.now
    ):
        books.enqueue(row)
        row.next_action_at = books.now + _REORDER
    await books.flush()


_REORDER = timedelta(minutes=15)

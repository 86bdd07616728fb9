"""Cancellation and resumption of our own subscriptions. No provider is called, so the command and
its effect are one transaction."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import derived_id
from common.contracts.subscriptions import ResumeBillingCommand, Status
from common.db import tenant_rows
from common.errors import Conflict
from common.messaging.events import new_event
from common.messaging.outbox import UnitOfWork
from subscription import repository
from subscription.billing.commands import CommandIntent, record_intent
from subscription.domain import SOURCE
from subscription.models import OURS, Command, Subscription
from subscription.schemas.billing import Cancel, CommandStatus, Resume
from subscription.subscriptions import renewals

_IN_USE = frozenset({Status.ACTIVE, Status.PAST_DUE})


async def run(
    session: AsyncSession, row: Subscription, key: str, request: Cancel | Resume
) -> Command:
    """Run the command in the caller's transaction. Raise `Conflict` if the subscription is over or
    the key was used for another command."""
    intended = CommandIntent(row.tenant, OURS, "", key, row.provider_subscription_id, request)
    command = await record_intent(session, intended)
    if command.status == CommandStatus.OPEN:
        await _do(session, command, row, request)
        await session.flush()
        await session.refresh(command)
    return command


async def _do(
    session: AsyncSession, command: Command, row: Subscription, request: Cancel | Resume
) -> None:
    await session.refresh(row, with_for_update=True)
    now = await tenant_rows.database_now(session)
    cause = new_event(
        id=derived_id("command done", command.id),
        type="billing_command.resume",
        source=SOURCE,
        subject=command.id,
        tenant=row.tenant,
        data=ResumeBillingCommand(command_id=command.id),
    )
    work = UnitOfWork(session, SOURCE)
    paid = (await repository.paid_checkouts(session, [row.id]))[row.id]
    await renewals.renew(work, cause, row, paid, now)  # it may have become due since
    if row.status not in _IN_USE:
        raise Conflict(f"the subscription is {row.status}: start a checkout, POST /v1/checkouts")
    if isinstance(request, Cancel):
        row.cancel_when, row.cancel_requested_at = request.when, now
        if request.when == "now":
            row.forfeited_until = now
    else:
        row.cancel_when = row.cancel_requested_at = None
    await renewals.renew(work, cause, row, paid, now)
    await work.flush()
    command.status, command.confirmed_at = CommandStatus.DONE, now
    command.result = {
        "id": row.id,
        "status": row.status,
        "cancel_at_period_end": row.cancel_at_period_end,
    }

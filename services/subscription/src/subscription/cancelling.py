"""Subscriptions of our own are cancelled, and cancellations taken back: nobody outside is asked, so
the command and what it does are one transaction."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from common import rows
from common.contracts.event import derived_id, root
from common.contracts.subscriptions import CommandDue, Status
from common.errors import Conflict
from common.messaging.outbox import Work
from subscription import renewals, repository
from subscription.billing import Cancel, CommandStatus, Resume
from subscription.commands import Intended, intend
from subscription.models import OURS, Command, Subscription

SOURCE = "/subscription"
_IN_USE = frozenset({Status.ACTIVE, Status.PAST_DUE})


async def run(
    session: AsyncSession, row: Subscription, key: str, wanted: Cancel | Resume
) -> Command:
    """In the caller's transaction. Raises `Conflict` for a subscription that is over, or when the
    key was used for another command."""
    intended = Intended(row.tenant, OURS, "", key, row.provider_subscription_id, wanted)
    command = await intend(session, intended)
    if command.status == CommandStatus.OPEN:
        await _do(session, command, row, wanted)
        await session.flush()
        await session.refresh(command)
    return command


async def _do(
    session: AsyncSession, command: Command, row: Subscription, wanted: Cancel | Resume
) -> None:
    await session.refresh(row, with_for_update=True)
    now = await rows.clock(session)
    cause = root(
        id=derived_id("command done", command.id),
        type="subscription_command.due",
        source=SOURCE,
        subject=command.id,
        tenant=row.tenant,
        data=CommandDue(command_id=command.id),
    )
    work = Work(session, SOURCE)
    paid = (await repository.paid_checkouts(session, [row.id]))[row.id]
    await renewals.renew(work, cause, row, paid, now)  # the clock may have struck since
    if row.status not in _IN_USE:
        raise Conflict(f"the subscription is {row.status}: start a checkout, POST /v1/checkouts")
    if isinstance(wanted, Cancel):
        row.cancel_when, row.cancel_wanted_at = wanted.when, now
        if wanted.when == "now":
            row.gave_up_at = now
    else:
        row.cancel_when = row.cancel_wanted_at = None
    await renewals.renew(work, cause, row, paid, now)
    await work.flush()
    command.status, command.confirmed_at = CommandStatus.DONE, now
    command.result = {
        "id": row.id,
        "status": row.status,
        "cancel_at_period_end": row.cancel_at_period_end,
    }

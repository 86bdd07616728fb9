"""Earnings that other services report: they become available and are paid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event
from common.contracts.payouts import EarningsAdjustment
from common.errors import NotFound
from common.messaging.outbox import UnitOfWork
from common.messaging.transactional_consumer import Handler
from payouts import repository
from payouts.ledger.audit_log import Actor
from payouts.ledger.entries import Entry, LedgerAccount
from payouts.models import recipient_id
from payouts.payout_service import PayoutService, check_reconciled
from payouts.recipient_service import post
from payouts.schemas import Schedule

_MOST_PAYOUTS = 100
_TAKEN_BACK = "earnings.reverse"


class Earnings:
    def __init__(self, service: PayoutService) -> None:
        self._service = service

    def by_event(self) -> Mapping[str, Handler]:
        return {"earnings.credit": self.on_report, _TAKEN_BACK: self.on_report}

    async def prepare(self, session: AsyncSession, events: Sequence[Event[Any]]) -> None:
        """Lock the recipients in the order of their ids, after their tenants: the common lock
        order."""
        for tenant in sorted({event.tenant for event in events}):
            await repository.ensure_tenant(session, tenant)
        await repository.lock_recipients(session, [_recipient(event) for event in events])

    async def on_report(self, work: UnitOfWork, event: Event[EarningsAdjustment]) -> None:
        """Credit or take back earnings. Raises `NotFound` for an unknown recipient: add it, then
        replay the dead letter. Raises `NotYet` while a restored database may have forgotten payouts
        to the recipient."""
        report = event.data
        found = await repository.recipients(work.session, [_recipient(event)])
        if not found:
            raise NotFound(f"there is no recipient {report.recipient}: add it, then replay this")
        (recipient,) = found.values()
        # After a restore the balance may be wrong: pay later rather than too much.
        check_reconciled(recipient, await repository.unreconciled(work.session))
        taken = event.type == _TAKEN_BACK
        # If the money was paid out already, the balance goes below zero, and the next earnings make
        # up for it.
        entry = (
            Entry(LedgerAccount.AVAILABLE, LedgerAccount.PLATFORM, report.amount)
            if taken
            else Entry(LedgerAccount.PLATFORM, LedgerAccount.AVAILABLE, report.amount)
        )
        new = await post(
            work.session,
            recipient,
            Actor(event.source.strip("/"), "system"),
            subject=f"earnings/{report.request_id}",
            action="take back" if taken else "earn",
            entry=entry,
            currency=report.currency,
            reason=report.reason,
        )
        kind = Schedule.model_validate(recipient.schedule, extra="ignore").kind
        if new and not taken and kind == "manual":
            # Nothing else would pay it: these earnings are the request to do so, split into as many
            # payouts as the account's limit requires.
            for number in range(_MOST_PAYOUTS):
                occasion = f"{report.request_id}:{number}"
                if await self._service.has_paid(work.session, recipient, occasion):
                    continue  # made before a restore
                if not await self._service.pay_balances(work.session, [(recipient, occasion)]):
                    break


def _recipient(event: Event[EarningsAdjustment]) -> str:
    return recipient_id(event.tenant, event.data.recipient)

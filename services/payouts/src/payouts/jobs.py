"""Scheduled jobs. A job only decides and enqueues: the work runs on whichever worker receives
it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event, derived_id
from common.contracts.jobs import RunJob
from common.contracts.payouts import GenerateDailyReport, ReconcileAccount
from common.db import tenant_rows
from common.messaging import outbox
from common.messaging.events import new_event
from common.messaging.outbox import UnitOfWork
from common.observability.logging import get_logger
from common.scheduling.scheduler import Cron, Every, Schedule, continue_if_full
from payouts import domain, payout_service, repository, schemas
from payouts.domain import State, Transition
from payouts.ledger.unit_of_work import SOURCE, PayoutUnitOfWork
from payouts.models import Payout, Recipient, Recovery
from payouts.providers.registry import Accounts, ProviderAccount
from payouts.recipient_service import next_payout

log = get_logger(__name__)

_MOST = 1000
_KEEP_TRANSFERS = timedelta(days=90)
SERVICE = "payouts"

# Banks return payments for days, and in the United States for sixty days.
_DAYS_BACK = (1, 3, 7, 14, 60)
_ORDER_AGAIN = timedelta(minutes=5)


class Jobs:
    """The jobs of the service. `interval` is the time between searches for due payouts; a payout
    that was not processed is enqueued again after `reorder`."""

    def __init__(
        self,
        accounts: Accounts,
        service: payout_service.PayoutService,
        *,
        interval: timedelta,
        reorder: timedelta,
    ) -> None:
        self._accounts = accounts
        self._service = service
        self._interval = interval
        self._reorder = reorder

    def schedule(self) -> Sequence[Schedule]:
        return (
            Schedule("due-payouts", Every(self._interval), self.due_payouts),
            Schedule("look-ups", Every(self._interval), self.look_ups),
            Schedule("retry-failed", Every(timedelta(hours=1)), self.retry_failed),
            Schedule("pay-balances", Every(timedelta(minutes=1)), self.pay_balances),
            Schedule("daily-report", Cron("10 0 * * *"), self.daily_report),
            Schedule("reconcile", Cron("30 2 * * *"), self.reconcile),
            Schedule("recover", Every(timedelta(minutes=1)), recover),
            Schedule("clean-up", Cron("50 3 * * *"), clean_up),
        )

    async def due_payouts(self, work: UnitOfWork, event: Event[RunJob]) -> str:
        """Enqueue payouts that are approved and due."""
        count = await self._order(work, event, [State.APPROVED])
        return f"{count} payouts ordered"

    async def look_ups(self, work: UnitOfWork, event: Event[RunJob]) -> str:
        """Enqueue status checks of payouts with an open outcome: unknown ones, those whose sending
        process died, and submitted ones that have waited long for a webhook."""
        count = await self._order(work, event, [State.SUBMITTING, State.UNKNOWN, State.SUBMITTED])
        return f"{count} look-ups ordered"

    async def retry_failed(self, work: UnitOfWork, event: Event[RunJob]) -> str:
        """Hourly: approve failed payouts again when their retry is due."""
        books = PayoutUnitOfWork(work.session, await tenant_rows.database_now(work.session))
        found = await self._due(work.session, [State.FAILED], books.now)
        for row in found:
            to = domain.transition(State(row.state), Transition.RETRY)
            row.next_action_at = books.now + self._reorder
            books.transition(
                row, to, action=Transition.RETRY, reason=f"after failure {row.failures}"
            )
            books.enqueue(row, "default")
        await books.flush()
        await continue_if_full(work.session, SERVICE, event, found, _MOST)
        return f"{len(found)} payouts retried"

    async def pay_balances(self, work: UnitOfWork, event: Event[RunJob]) -> str:
        """Create the payouts that recipients' schedules pay from available balances."""
        now = await tenant_rows.database_now(work.session)
        found = await repository.recipients_due(work.session, now, _MOST)
        due: list[tuple[Recipient, str | None]] = []
        for recipient in found:
            schedule = schemas.Schedule.model_validate(recipient.schedule, extra="ignore")
            due.append((recipient, None))
            recipient.next_payout_at = next_payout(schedule, now)
        paid = await self._service.pay_balances(work.session, due)
        await continue_if_full(work.session, SERVICE, event, found, _MOST)
        return f"{paid} of {len(found)} recipients due are paid"

    async def daily_report(self, work: UnitOfWork, event: Event[RunJob]) -> str:
        """Enqueue yesterday's report (UTC) for each tenant that has payouts."""
        day = event.time.date() - timedelta(days=1)
        tenants = await repository.tenants(work.session)
        for tenant in tenants:
            await _enqueue(work.session, event, tenant, GenerateDailyReport(day=day))
        return f"reports of {day} enqueued for {len(tenants)} tenants"

    async def reconcile(self, work: UnitOfWork, event: Event[RunJob]) -> str:
        """Enqueue the comparison of yesterday (UTC) at each account with the ledger, and of earlier
        days again: money paid then may have come back since."""
        days = [event.time.date() - timedelta(days=back) for back in _DAYS_BACK]
        accounts = list(self._accounts)
        for day in days:
            for each in accounts:
                await enqueue_reconciliation(
                    work.session, event, each.tenant, day, each.provider, each.name
                )
        return f"reconciliation of {len(days)} days ordered for {len(accounts)} accounts"

    async def _order(self, work: UnitOfWork, event: Event[RunJob], states: Sequence[State]) -> int:
        books = PayoutUnitOfWork(work.session, await tenant_rows.database_now(work.session))
        found = await self._due(work.session, states, books.now)
        for row in found:
            books.enqueue(row)
            row.next_action_at = books.now + self._reorder
        await books.flush()
        await continue_if_full(work.session, SERVICE, event, found, _MOST)
        return len(found)

    async def _due(
        self, session: AsyncSession, states: Sequence[State], now: datetime
    ) -> Sequence[Payout]:
        return (await session.scalars(repository.select_due(states, now, _MOST))).all()


async def recover(work: UnitOfWork, event: Event[RunJob]) -> str:
    """After a restore: enqueue again the reconciliation of days that are still open."""
    before = await tenant_rows.database_now(work.session) - _ORDER_AGAIN
    found = await repository.recoveries_due(work.session, before, _MOST)
    await enqueue_recoveries(work.session, event, found)
    return f"{len(found)} days of a restored database are compared again"


def forgotten_days(
    accounts: Sequence[ProviderAccount], since: datetime, now: datetime
) -> Sequence[Recovery]:
    """Return a recovery for each day (UTC) of each account of which a restored database may have
    forgotten payouts."""
    days = (now.date() - since.date()).days + 1
    return [
        Recovery(
            tenant=each.tenant,
            provider=each.provider,
            account=each.name,
            day=since.date() + timedelta(days=number),
            requested_at=now,
        )
        for each in accounts
        for number in range(days)
    ]


async def enqueue_recoveries(
    session: AsyncSession, cause: Event[RunJob] | None, found: Sequence[Recovery]
) -> None:
    now = await tenant_rows.database_now(session)
    for each in found:
        each.requested_at = now
        await enqueue_reconciliation(
            session, cause, each.tenant, each.day, each.provider, each.account
        )


async def clean_up(work: UnitOfWork, _: Event[RunJob]) -> str:
    """Delete old transfers that never were ours. Payouts, ledger and audit log are kept
    permanently."""
    count = await repository.delete_foreign_transfers(work.session, _KEEP_TRANSFERS)
    return f"{count} transfers removed"


async def enqueue_reconciliation(
    session: AsyncSession,
    cause: Event[RunJob] | None,
    tenant: str,
    day: date,
    provider: str,
    account: str,
) -> None:
    command = ReconcileAccount(day=day, provider=provider, account=account)
    await _enqueue(session, cause, tenant, command)


async def _enqueue(
    session: AsyncSession,
    cause: Event[RunJob] | None,
    tenant: str,
    command: GenerateDailyReport | ReconcileAccount,
) -> None:
    occasion = cause.id if cause else datetime.now(UTC).isoformat()
    type_ = _TYPES[type(command)]
    parts = (tenant, *(str(each) for each in command.model_dump().values()), occasion)
    event = new_event(
        id=derived_id(type_, *parts),
        type=type_,
        source=SOURCE,
        subject=f"{tenant}/{command.day}",
        tenant=tenant,
        data=command,
    )
    await outbox.enqueue(session, [event])


_TYPES = {
    GenerateDailyReport: "payout_report.generate",
    ReconcileAccount: "payout_reconciliation.run",
}

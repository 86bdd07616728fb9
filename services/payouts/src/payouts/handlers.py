"""Handlers of providers' reports about transfers, and of the commands that call providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event
from common.contracts.payouts import TransferReported
from common.db import tenant_rows
from common.messaging.outbox import UnitOfWork
from common.messaging.transactional_consumer import Handler
from common.observability.logging import get_logger
from payouts import repository
from payouts.domain import TransferStatus, merge_status
from payouts.execution import status_updates
from payouts.execution.executor import PayoutExecutor
from payouts.execution.status_updates import PayoutHistory, StatusCheckDelays
from payouts.ledger.audit_log import Actor
from payouts.ledger.unit_of_work import PayoutUnitOfWork
from payouts.models import Recipient, Transfer, payout_id, square_key
from payouts.providers.registry import READ_ONLY, account_of
from payouts.reconciliation.adoption import adopt
from payouts.reconciliation.reconciler import Reconciler
from payouts.repository import TransferKey

log = get_logger(__name__)

_FATES: Mapping[str, TransferStatus | None] = {
    "provider_transfer.created": TransferStatus.ACCEPTED,
    "provider_transfer.succeeded": TransferStatus.PAID,
    "provider_transfer.failed": TransferStatus.FAILED,
    "provider_transfer.reversed": TransferStatus.RETURNED,
    "provider_payout.created": TransferStatus.ACCEPTED,
    "provider_payout.succeeded": TransferStatus.PAID,
    "provider_payout.failed": TransferStatus.FAILED,
    "provider_payout.notification_received": None,
}
_PROVED = {"signature", "requery"}


class Reports:
    """Handler of providers' reports. The rows that a batch needs are in its session."""

    def __init__(self, times: StatusCheckDelays) -> None:
        self._times = times

    def by_event(self) -> Mapping[str, Handler]:
        return dict.fromkeys(_FATES, self.on_report)

    async def prepare(self, session: AsyncSession, events: Sequence[Event[Any]]) -> None:
        """Lock the rows that the batch needs, in the common lock order."""
        transfers = await repository.lock_transfers(session, [_key(event) for event in events])
        ids = {row.payout_id for row in transfers.values()} | {e.data.reference for e in events}
        found = await repository.lock_payouts(session, sorted(filter(None, ids)))
        attempts = await repository.attempts_of(session, list(found))
        made = await repository.transfers_of(session, list(found))
        locations = [e.data.account for e in events if e.data.provider == "square"]
        recipients = await repository.recipients_by_handle(
            session, "square", list(filter(None, locations))
        )
        session.info["reports"] = ReportBatch(
            PayoutUnitOfWork(session, await tenant_rows.database_now(session)),
            transfers,
            {id_: PayoutHistory(row, attempts[id_], made[id_]) for id_, row in found.items()},
            recipients,
        )

    async def on_report(self, work: UnitOfWork, event: Event[TransferReported]) -> None:
        batch: ReportBatch = work.session.info["reports"]
        work.before_commit(batch.books.flush)
        report = event.data
        transfer = batch.transfers[_key(event)]
        file = batch.history_of(event, transfer)
        transfer_status = _status_of(event) if event.trust in _PROVED else None
        if file is None and report.provider == "square":
            file = batch.open_square(event)
        if transfer_status is not None:
            known = TransferStatus(transfer.transfer_status) if transfer.transfer_status else None
            whole = merge_status(known, transfer_status)
        if file is None:
            if (
                transfer_status is not None
            ):  # a lost response, or not ours: a status check will show
                transfer.transfer_status = whole
            if transfer_status in {TransferStatus.FAILED, TransferStatus.RETURNED}:
                log.warning(
                    "unknown_transfer_failed",
                    provider=report.provider,
                    transfer=report.transfer_id,
                    status=str(transfer_status),
                )
            return
        actor = Actor(report.provider, "provider")
        if transfer_status is None:
            batch.books.enqueue(file.row, ask=True)
        elif whole is TransferStatus.RETURNED and report.provider not in READ_ONLY:
            # Another transfer of the payout may still move money without our knowledge. Money that
            # is owed again is paid again, so the provider is queried first.
            transfer.transfer_status = whole
            file.adopt(transfer)
            batch.books.enqueue(file.row, ask=True)
        else:
            if _came_back_in_part(report):
                batch.books.enqueue(file.row, ask=True)
            status_updates.apply_status(
                batch.books,
                file,
                transfer,
                transfer_status,
                times=self._times,
                actor=actor,
                reason=report.reason,
                cause=event,
            )


class ReportBatch:
    def __init__(
        self,
        books: PayoutUnitOfWork,
        transfers: Mapping[TransferKey, Transfer],
        files: dict[str, PayoutHistory],
        recipients: Mapping[tuple[str, str], Recipient],
    ) -> None:
        self.books = books
        self.transfers = transfers
        self.files = files
        self._recipients = recipients

    def history_of(
        self, event: Event[TransferReported], transfer: Transfer
    ) -> PayoutHistory | None:
        """Return the payout that the report is about; None if it belongs to another tenant or
        account."""
        for id_ in (transfer.payout_id, event.data.reference):
            file = self.files.get(id_) if id_ else None
            if file is not None and (file.row.tenant, file.row.provider, file.row.account) == (
                event.tenant,
                transfer.provider,
                transfer.account,
            ):
                return file
        return None

    def open_square(self, event: Event[TransferReported]) -> PayoutHistory | None:
        """Record a payout that Square reports: Square pays on its own schedule."""
        report = event.data
        recipient = self._recipients.get((event.tenant, report.account or ""))
        if recipient is None or not report.amount or report.currency != recipient.currency:
            return None
        key = square_key(report.transfer_id)
        file = adopt(
            self.books,
            recipient,
            id_=payout_id(event.tenant, key),
            key=key,
            amount=report.amount,
            made_at=self.books.now,
            funding="direct",
            actor=Actor("square", "provider"),
            reason="paid by Square",
        )
        self.files[file.row.id] = file
        return file


def _status_of(event: Event[TransferReported]) -> TransferStatus | None:
    """Return the reported status; None if the provider has to be queried."""
    report = event.data
    if report.provider == "stripe" and event.type == "provider_transfer.created":
        return TransferStatus.PAID  # it is in the connected account's balance
    if event.type == "provider_transfer.reversed" and _came_back_in_part(report):
        return TransferStatus.PAID
    return _FATES[event.type]


def _came_back_in_part(report: TransferReported) -> bool:
    return report.amount_returned not in {None, report.amount}


def _key(event: Event[TransferReported]) -> TransferKey:
    report = event.data
    account = account_of(event.source, report.provider)
    return event.tenant, report.provider, account, report.transfer_id


class Commands:
    """Handler of the commands that call providers: process a payout, write a report, reconcile an
    account."""

    def __init__(self, executor: PayoutExecutor, reconciler: Reconciler) -> None:
        self._executor = executor
        self._reconciler = reconciler

    async def do(self, event: Event[Any]) -> None:
        match event.type:
            case "payout_report.generate":
                await self._reconciler.generate_report(event)
            case "payout_reconciliation.run":
                await self._reconciler.run(event)
            case _:
                await self._executor.process(event)

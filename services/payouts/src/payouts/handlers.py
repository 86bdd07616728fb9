"""What providers' webhooks say of transfers finishes payouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common import rows
from common.contracts.event import Event
from common.contracts.payouts import TransferReported
from common.messaging.outbox import Work
from common.messaging.transactional import Handler
from payouts import repository, settling
from payouts.accounts import READ_ONLY, account_of
from payouts.adoption import adopt
from payouts.audit import Actor
from payouts.books import Books
from payouts.domain import Fate, combined
from payouts.models import Recipient, Transfer, payout_id, square_key
from payouts.repository import TransferKey
from payouts.settling import File, Times

_FATES: Mapping[str, Fate | None] = {
    "transfer.created": Fate.ACCEPTED,
    "transfer.succeeded": Fate.PAID,
    "transfer.failed": Fate.FAILED,
    "transfer.reversed": Fate.RETURNED,
    "provider_payout.created": Fate.ACCEPTED,
    "provider_payout.succeeded": Fate.PAID,
    "provider_payout.failed": Fate.FAILED,
    "provider_payout.reported": None,
}
_PROVED = {"signature", "requery"}


class Reports:
    """Handles what providers say; what a batch needs lives in its session."""

    def __init__(self, times: Times) -> None:
        self._times = times

    def by_event(self) -> Mapping[str, Handler]:
        return dict.fromkeys(_FATES, self.on_report)

    async def prepare(self, session: AsyncSession, events: Sequence[Event[Any]]) -> None:
        """Lock what the batch needs, in the order that everybody keeps."""
        transfers = await repository.lock_transfers(session, [_key(event) for event in events])
        ids = {row.payout_id for row in transfers.values()} | {e.data.reference for e in events}
        found = await repository.lock_payouts(session, sorted(filter(None, ids)))
        attempts = await repository.attempts_of(session, list(found))
        made = await repository.transfers_of(session, list(found))
        locations = [e.data.account for e in events if e.data.provider == "square"]
        recipients = await repository.recipients_by_handle(
            session, "square", list(filter(None, locations))
        )
        session.info["reports"] = _Batch(
            Books(session, await rows.clock(session)),
            transfers,
            {id_: File(row, attempts[id_], made[id_]) for id_, row in found.items()},
            recipients,
        )

    async def on_report(self, work: Work, event: Event[TransferReported]) -> None:
        batch: _Batch = work.session.info["reports"]
        work.at_end(batch.books.close)
        report = event.data
        transfer = batch.transfers[_key(event)]
        file = batch.file_of(event, transfer)
        fate = _fate(event) if event.trust in _PROVED else None
        if file is None and report.provider == "square":
            file = batch.open_square(event)
        if fate is not None:
            known = Fate(transfer.fate) if transfer.fate else None
            whole = combined(known, fate)
        if file is None:
            if fate is not None:  # an answer that was lost, or nothing of ours: who asks will see
                transfer.fate = whole
            return
        actor = Actor(report.provider, "provider")
        if fate is None:
            batch.books.order(file.row, ask=True)
        elif whole is Fate.RETURNED and report.provider not in READ_ONLY:
            # Another transfer of the payout may stand, of which nobody knows: money that is owed
            # again is paid again, so the provider says first what there is.
            transfer.fate = whole
            file.take(transfer)
            batch.books.order(file.row, ask=True)
        else:
            if _came_back_in_part(report):
                batch.books.order(file.row, ask=True)
            settling.settle(
                batch.books,
                file,
                transfer,
                fate,
                times=self._times,
                actor=actor,
                reason=report.reason,
                cause=event,
            )


class _Batch:
    def __init__(
        self,
        books: Books,
        transfers: Mapping[TransferKey, Transfer],
        files: dict[str, File],
        recipients: Mapping[tuple[str, str], Recipient],
    ) -> None:
        self.books = books
        self.transfers = transfers
        self.files = files
        self._recipients = recipients

    def file_of(self, event: Event[TransferReported], transfer: Transfer) -> File | None:
        """The payout that the report is about: another tenant's is none."""
        for id_ in (transfer.payout_id, event.data.reference):
            file = self.files.get(id_) if id_ else None
            if file is not None and (file.row.tenant, file.row.provider, file.row.account) == (
                event.tenant,
                transfer.provider,
                transfer.account,
            ):
                return file
        return None

    def open_square(self, event: Event[TransferReported]) -> File | None:
        """Square pays by itself: its payouts are written down when it reports them."""
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


def _fate(event: Event[TransferReported]) -> Fate | None:
    """None where the provider has to be asked."""
    report = event.data
    if report.provider == "stripe" and event.type == "transfer.created":
        return Fate.PAID  # it is in the connected account's balance
    if event.type == "transfer.reversed" and _came_back_in_part(report):
        return Fate.PAID
    return _FATES[event.type]


def _came_back_in_part(report: TransferReported) -> bool:
    return report.amount_returned not in {None, report.amount}


def _key(event: Event[TransferReported]) -> TransferKey:
    report = event.data
    account = account_of(event.source, report.provider)
    return event.tenant, report.provider, account, report.transfer_id

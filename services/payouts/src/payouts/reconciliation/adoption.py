"""Adoption of transfers that a provider lists and the database does not know: payouts of a provider
that pays on its own schedule, and payouts under our references that a restored database has
forgotten or that a provider made without our request."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from common.db import tenant_rows
from common.observability.logging import get_logger
from payouts import repository
from payouts.domain import State
from payouts.execution.status_updates import (
    PayoutHistory,
    StatusCheckDelays,
    apply_status,
    part_returned,
    remember,
)
from payouts.ledger import repository as ledger
from payouts.ledger.audit_log import PAYBUS, Actor
from payouts.ledger.entries import Funding
from payouts.ledger.unit_of_work import PayoutUnitOfWork
from payouts.models import Attempt, Payout, Recipient, payout_id, square_key
from payouts.providers.base import ListedTransfer
from payouts.providers.registry import ProviderAccount
from payouts.schemas import NewPayout, as_stored

log = get_logger(__name__)


def adopt(
    books: PayoutUnitOfWork,
    recipient: Recipient,
    *,
    id_: str,
    key: str,
    amount: int,
    made_at: datetime,
    funding: Funding,
    actor: Actor,
    reason: str,
) -> PayoutHistory:
    """Add the payout as if its call had just been answered; the caller applies its status next.
    `amount` is in minor units, `made_at` is UTC."""
    request = NewPayout.model_construct(
        recipient=recipient.reference,
        amount=amount,
        currency=recipient.currency,
        funding=funding,
        priority="default",
    )
    row = Payout(
        id=id_,
        tenant=recipient.tenant,
        created_at=made_at,
        idempotency_key=key,
        request=as_stored(request),
        recipient_id=recipient.id,
        provider=recipient.provider,
        account=recipient.account,
        amount=amount,
        fee=0,
        fee_charged=False,
        amount_returned=0,
        currency=recipient.currency,
        funding=funding,
        priority=request.priority,
        state=State.SUBMITTING,
        held=False,
        created_by=actor.name,
        credited_by=[],
        adopted=funding == "balance",
        due_at=made_at,
        attempts=1,
        failures=0,
        status_checks=0,
        version=0,
    )
    attempt = Attempt(
        payout_id=id_,
        number=1,
        idempotency_key=key,
        started_at=made_at,
        deadline=made_at,
        finished_at=books.now,
        key_consumed=True,
        outcome="found",
        details=recipient.details,
    )
    books.session.add_all([row, attempt])
    books.create(row, actor, reason=reason)
    return PayoutHistory(row, [attempt])


async def adopt_listed(
    session: AsyncSession,
    account: ProviderAccount,
    theirs: Sequence[ListedTransfer],
    times: StatusCheckDelays,
    *,
    recovers: bool,
) -> str | None:
    """Record the transfers that the provider lists and no payout has, as far as they are ours.
    Return a fault if the database does not know their recipient either. `recovers` is whether the
    database may have forgotten payouts: otherwise no transfer whose data the recipient may have
    written is adopted."""
    unrecorded = await _unrecorded(session, account, theirs)
    by_payout: dict[str, list[ListedTransfer]] = {}
    for each in unrecorded:
        by_payout.setdefault(_payout_id(account, each), []).append(each)
    for id_ in sorted(by_payout):  # concurrent requests for it finish first
        await repository.serialize_on(session, id_)
    keys = [account.transfer_key(each.transfer_id) for each in unrecorded]
    transfers = await repository.lock_transfers(session, keys)
    known = await repository.lock_payouts(session, list(by_payout))
    unknown = [each for id_, made in by_payout.items() if id_ not in known for each in made]
    recipients = await _recipients(session, account, unknown)
    files = await _files(session, account, known)
    books = PayoutUnitOfWork(session, await tenant_rows.database_now(session))
    adopted_by: list[Recipient] = []
    for id_, all_ in by_payout.items():
        file = files.get(id_)
        owner = await session.get(Recipient, file.row.recipient_id) if file else None
        if id_ not in known:
            owner = recipients.get(_recipient_name(account, all_[0]))
        made = [each for each in all_ if owner is not None and _is_of(owner, each)]
        if owner is None or not made:
            continue
        if file is None:
            if made[0].of_recipient and not recovers:
                continue
            file = _adopted(books, account, owner, id_, made[0])
            adopted_by.append(owner)
        if not file.attempts:
            remember(books, file, made[0], details=owner.details)
        for each in made:
            transfer = transfers[account.transfer_key(each.transfer_id)]
            log.warning(
                "unknown_transfer_adopted",
                payout=id_,
                transfer=each.transfer_id,
                account=account.path,
            )
            reason = f"{account.provider} lists it, and the database did not know it"
            apply_status(
                books,
                file,
                transfer,
                each.transfer_status,
                times=times,
                asked=True,
                reason=reason,
                amount_returned=part_returned(file.row, each),
            )
    await books.flush()
    await _hold_what_is_not_covered(session, {owner.id for owner in adopted_by})
    ours = [each for each in unknown if not each.of_recipient]
    lost = {_recipient_name(account, each) for each in ours} - recipients.keys()
    if not lost:
        return None
    return (
        "lists transfers to recipients that are not in the database: add them, with their former "
        f"references ({', '.join(sorted(lost)[:5])})"
    )


async def _hold_what_is_not_covered(session: AsyncSession, recipients: Collection[str]) -> None:
    """Hold the unsent balance payouts of recipients whose available balance is below zero: the
    adopted payouts used their money, so the unsent ones were cancelled or came back after the
    backup."""
    available = await ledger.available_balances(session, sorted(recipients))
    short = {key for key, amount in available.items() if amount < 0}
    if not short:
        return
    books = PayoutUnitOfWork(session, await tenant_rows.database_now(session))
    for row in await repository.lock_unsent(session, sorted({id_ for id_, _ in short})):
        if (row.recipient_id, row.currency) not in short or row.held:
            continue
        row.held, row.next_action_at = True, None
        books.annotate(
            row, PAYBUS, "hold", "its recipient was paid more than the balance: find out what for"
        )
        log.warning("payout_held_after_restore", payout=row.id)
    await books.flush()


def _adopted(
    books: PayoutUnitOfWork,
    account: ProviderAccount,
    recipient: Recipient,
    id_: str,
    made: ListedTransfer,
) -> PayoutHistory:
    return adopt(
        books,
        recipient,
        id_=id_,
        key="" if account.pays else square_key(made.transfer_id),
        amount=made.amount,
        made_at=made.created_at,
        funding="balance" if account.pays else "direct",
        actor=Actor(account.provider, "provider"),
        reason=f"{account.provider} lists it, and the database did not know it",
    )


async def _files(
    session: AsyncSession, account: ProviderAccount, known: Mapping[str, Payout]
) -> Mapping[str, PayoutHistory]:
    """Return the histories of the account's own payouts: another tenant that shares the account
    adopts its own."""
    ids = [
        id_ for id_, row in known.items() if (row.tenant, row.provider, row.account) == account.key
    ]
    attempts = await repository.attempts_of(session, ids)
    made = await repository.transfers_of(session, ids)
    return {id_: PayoutHistory(known[id_], attempts[id_], made[id_]) for id_ in ids}


def _is_of(recipient: Recipient, listed: ListedTransfer) -> bool:
    """Return whether the transfer is the recipient's. A transfer in the account of another
    recipient is not, whatever its fields contain."""
    return not listed.of_recipient or listed.destination == recipient.provider_ref


async def _unrecorded(
    session: AsyncSession, account: ProviderAccount, theirs: Sequence[ListedTransfer]
) -> Sequence[ListedTransfer]:
    """Return the transfers that we made, or that the provider made to a recipient, and that belong
    to no payout of any tenant: several tenants may share the account."""
    ours = [
        each
        for each in {each.transfer_id: each for each in theirs}.values()
        if each.transfer_status.moves_money
        and _recipient_name(account, each)
        and (each.reference or not account.pays)
    ]
    ids = [each.transfer_id for each in ours]
    owners = await repository.owners_of(session, account.provider, ids)
    return [each for each in ours if each.transfer_id not in owners]


async def _recipients(
    session: AsyncSession, account: ProviderAccount, unknown: Sequence[ListedTransfer]
) -> Mapping[str, Recipient]:
    """Return the tenant's recipients by their name in the provider's list."""
    names = sorted({_recipient_name(account, each) for each in unknown})
    if account.pays:
        found = await repository.recipients(session, names)
        return {id_: row for id_, row in found.items() if row.tenant == account.tenant}
    by_handle = await repository.recipients_by_handle(session, account.provider, names)
    return {name: row for (tenant, name), row in by_handle.items() if tenant == account.tenant}


def _recipient_name(account: ProviderAccount, listed: ListedTransfer) -> str:
    return (listed.recipient_id if account.pays else listed.destination) or ""


def _payout_id(account: ProviderAccount, listed: ListedTransfer) -> str:
    if account.pays:
        return listed.reference or ""
    return payout_id(account.tenant, square_key(listed.transfer_id))

"""Creation of payouts and batches for API callers and schedules."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import derived_id
from common.db import tenant_rows
from common.errors import Conflict, Invalid, NotFound, NotYet, PaybusError
from common.observability.logging import get_logger
from payouts import repository
from payouts.domain import State
from payouts.ledger import audit_log, entries
from payouts.ledger import repository as ledger
from payouts.ledger.audit_log import Actor
from payouts.ledger.entries import Entry
from payouts.ledger.entries import LedgerAccount as Ledger
from payouts.ledger.unit_of_work import PayoutUnitOfWork
from payouts.models import Batch, Payout, Recipient, payout_id, recipient_id
from payouts.providers.base import PayoutRequest
from payouts.providers.recipient_details import RecipientDetailsCipher
from payouts.providers.registry import Accounts, ProviderAccount
from payouts.repository import AccountKey
from payouts.schemas import (
    NewBatch,
    NewPayout,
    Schedule,
    as_stored,
    moment,
    stored,
)

log = get_logger(__name__)

_TRY_AGAIN = timedelta(hours=1)
_UNRECONCILED_SECONDS = 60


@dataclass(frozen=True)
class Ordered:
    """Payouts of a request. `new` is the number that this request created; the others existed
    already."""

    payouts: Sequence[Payout]
    new: int


# Key prefixes of payouts that schedules and batches create, and that a provider made on its own.
_OUR_KEYS = ("schedule:", "batch:", "square:")


class PayoutService:
    """Creation of payouts and batches. Everything runs in the caller's transaction."""

    def __init__(
        self, accounts: Accounts, details: RecipientDetailsCipher, *, reorder: timedelta
    ) -> None:
        self._accounts = accounts
        self._details = details
        self._reorder = reorder

    async def create(
        self, session: AsyncSession, tenant: str, key: str, by: Actor, request: NewPayout
    ) -> Ordered:
        """Create a payout. Raises `Conflict` if the key was used for another payout, `NotFound` for
        an unknown recipient, `Invalid` for a payout that can't be paid and for a key with a
        reserved prefix."""
        if key.startswith(_OUR_KEYS):
            raise Invalid(f"an Idempotency-Key must not begin with {', '.join(_OUR_KEYS)}")
        await repository.serialize_on(session, payout_id(tenant, key))
        return await self._order(session, tenant, [(key, request)], by)

    async def create_batch(
        self, session: AsyncSession, tenant: str, key: str, by: Actor, request: NewBatch
    ) -> tuple[Batch, bool]:
        """Create all payouts of a batch, or none; return the batch and whether it is new."""
        id_ = derived_id("batches", tenant, key)
        content = json.dumps(request.model_dump(mode="json"), sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        values = {
            "id": id_,
            "tenant": tenant,
            "idempotency_key": key,
            "name": request.name,
            "digest": digest,
            "payouts": len(request.payouts),
            "created_by": by.name,
        }
        row, is_new = await repository.intend_batch(session, values)
        if row.digest != digest:
            raise Conflict("this Idempotency-Key was used for another batch")
        if is_new:
            items = [(f"batch:{id_}:{n}", each) for n, each in enumerate(request.payouts)]
            await self._order(session, tenant, items, by, batch_id=id_)
        return row, is_new

    async def pay_balances(
        self, session: AsyncSession, due: Sequence[tuple[Recipient, str | None]]
    ) -> int:
        """Create the payouts that the schedules of these (locked) recipients, of any tenant, pay
        from what is available. Each recipient comes with a name of the occasion, or None for the
        next payout of its schedule. Return the number of payouts created.

        A schedule numbers its payouts. So a payout that a restored database has forgotten has the
        id of the next one that the schedule creates, and is found at the provider before that one
        is sent.
        """
        for tenant in sorted({recipient.tenant for recipient, _ in due}):
            await repository.ensure_tenant(session, tenant)
        by_id = await self._next_occasions(session, due)
        available = await ledger.available_balances(session, [recipient.id for recipient, _ in due])
        books = PayoutUnitOfWork(session, await tenant_rows.database_now(session))
        made: list[Payout] = []
        for id_, (key, recipient) in by_id.items():
            there = available[recipient.id, recipient.currency]
            if there < _minimum(recipient):
                continue
            try:
                payout = self._of_balance(books.now, id_, key, recipient, there)
            except PaybusError as error:
                log.error("scheduled_payout_failed", recipient=recipient.id, error=str(error))
                # A `threshold` schedule has no time and would be found again immediately.
                recipient.next_payout_at = recipient.next_payout_at or books.now + _TRY_AGAIN
                continue
            if payout.state == State.SCHEDULED:
                payout.credited_by = await ledger.creditors(session, recipient, there)
            made.append(payout)
        self._open(books, made, audit_log.PAYBUS)
        await books.flush()
        return len(made)

    async def has_paid(self, session: AsyncSession, recipient: Recipient, occasion: str) -> bool:
        """Return whether a payout of this occasion exists."""
        id_ = payout_id(recipient.tenant, f"schedule:{recipient.id}:{occasion}")
        return id_ in await repository.payouts(session, {id_})

    async def _next_occasions(
        self, session: AsyncSession, due: Sequence[tuple[Recipient, str | None]]
    ) -> Mapping[str, tuple[str, Recipient]]:
        """Return the keys and recipients of the payouts that do not exist yet, by payout id."""
        found: dict[str, tuple[str, Recipient]] = {}
        waiting = list(due)
        while waiting:
            by_id: dict[str, tuple[str, Recipient, str | None]] = {}
            for recipient, occasion in waiting:
                key = f"schedule:{recipient.id}:{occasion or recipient.scheduled + 1}"
                by_id[payout_id(recipient.tenant, key)] = key, recipient, occasion
            known = await repository.lock_payouts(session, list(by_id))
            waiting = []
            for id_, (key, recipient, occasion) in by_id.items():
                if id_ not in known:
                    found[id_] = key, recipient
                elif occasion is None:
                    recipient.scheduled += 1
                    waiting.append((recipient, None))
        return found

    def _of_balance(
        self, now: datetime, id_: str, key: str, recipient: Recipient, there: int
    ) -> Payout:
        """Return a payout of as much of `there` (minor units) as the account can pay. Raises
        `Invalid` if that is nothing or `_check` refuses it."""
        account = self._accounts.find(recipient.tenant, recipient.provider, recipient.account)
        if not account.limit(recipient.currency):
            raise Invalid(f"{account.path} makes no payouts in {recipient.currency}")
        details = self._details.open(recipient.provider, recipient.details)
        step = account.client.step(recipient.currency, details)
        # The rest, above the account's limit or below the provider's step, stays for the next time.
        amount = min(there, account.limit(recipient.currency)) // step * step
        if not amount:
            raise Invalid(f"{recipient.provider} pays multiples of {step} {recipient.currency}")
        request = NewPayout(
            recipient=recipient.reference,
            amount=amount,
            currency=recipient.currency,
            funding="balance",
            priority="default",
        )
        self._check(account, recipient, id_, request)
        return _row(now, id_, key, request, recipient, account, audit_log.PAYBUS, None)

    async def _order(
        self,
        session: AsyncSession,
        tenant: str,
        request: Sequence[tuple[str, NewPayout]],
        by: Actor,
        *,
        batch_id: str | None = None,
    ) -> Ordered:
        await repository.ensure_tenant(session, tenant)
        by_id = {payout_id(tenant, key): (key, each) for key, each in request}
        known = await repository.lock_payouts(session, list(by_id))
        books = PayoutUnitOfWork(session, await tenant_rows.database_now(session))
        claimed = [row for row in known.values() if row.adopted]
        for id_, row in known.items():
            key, each = by_id[id_]
            if row.adopted:
                _claim(books, row, key, each, by)
                row.batch_id = batch_id
            if stored(row.request) != each:
                raise Conflict("this Idempotency-Key was used for another payout")
        fresh = {id_: each for id_, each in by_id.items() if id_ not in known}
        if not fresh:
            await books.flush()
            for row in claimed:
                await session.refresh(row)
            return Ordered([known[id_] for id_ in by_id], new=0)
        recipients = await self._recipients(session, tenant, [each for _, each in fresh.values()])
        unreconciled = await repository.unreconciled(session)
        made: dict[str, Payout] = {}
        for id_, (key, each) in fresh.items():
            recipient = recipients[each.recipient]
            account = self._accounts.find(tenant, recipient.provider, recipient.account)
            check_reconciled(recipient, unreconciled)
            try:
                self._check(account, recipient, id_, each)
            except Invalid as error:
                if batch_id is None:
                    raise
                number = int(key.rpartition(":")[2]) + 1
                raise Invalid(f"payout {number} of the batch: {error}") from error
            made[id_] = _row(books.now, id_, key, each, recipient, account, by, batch_id)
        await _check_balances(session, list(made.values()), recipients)
        self._open(books, list(made.values()), by)
        await books.flush()
        return Ordered([known.get(id_) or made[id_] for id_ in by_id], new=len(made))

    def _open(self, books: PayoutUnitOfWork, made: Sequence[Payout], by: Actor) -> None:
        books.session.add_all(made)
        for row in made:
            books.create(row, by)
            if row.state == State.APPROVED and row.due_at <= books.now:
                row.next_action_at = books.now + self._reorder
                books.enqueue(row)

    async def _recipients(
        self, session: AsyncSession, tenant: str, request: Sequence[NewPayout]
    ) -> Mapping[str, Recipient]:
        by_id = {recipient_id(tenant, each.recipient): each.recipient for each in request}
        found = await repository.recipients(session, list(by_id))
        if missing := [by_id[id_] for id_ in by_id if id_ not in found]:
            raise NotFound(f"there is no recipient {', '.join(sorted(missing)[:5])}")
        return {row.reference: row for row in found.values()}

    def _check(
        self, account: ProviderAccount, recipient: Recipient, id_: str, request: NewPayout
    ) -> None:
        """Raise `Invalid` for a payout that can't be paid."""
        who = recipient.reference
        if not account.pays:
            raise Invalid(
                f"{recipient.provider} pays {who} by itself: its payouts are only compared"
            )
        if recipient.blocked:
            raise Invalid(f"{who} is blocked")
        if request.currency != recipient.currency:
            raise Invalid(f"{who} is paid in {recipient.currency}, not in {request.currency}")
        limit = account.limit(request.currency)
        if request.amount > limit:
            raise Invalid(
                f"{account.path} pays at most {limit} {request.currency} at once (minor units; "
                "`limits` in the file that PAYOUT_ACCOUNTS_FILE names)"
            )
        details = self._details.open(recipient.provider, recipient.details)
        amount, currency = request.amount, request.currency
        order = PayoutRequest(id_, recipient.id, amount, currency, details, request.description)
        account.client.check(order)


def check_reconciled(recipient: Recipient, unreconciled: Collection[AccountKey]) -> None:
    """Raise `NotYet` while a restored database may have forgotten payouts to the recipient."""
    if (recipient.tenant, recipient.provider, recipient.account) in unreconciled:
        raise NotYet(
            f"the database was restored, and {recipient.provider}/{recipient.account} is not "
            "reconciled yet: what was paid since the backup may be forgotten "
            "(GET /v1/control says how far it is)",
            _UNRECONCILED_SECONDS,
        )


def _claim(books: PayoutUnitOfWork, row: Payout, key: str, request: NewPayout, by: Actor) -> None:
    """Claim an adopted payout: a caller creates again, with its key, a payout that the database had
    forgotten. From now on it is as it was requested. Raises `Conflict` if the request differs."""
    asked = (request.recipient, request.currency, request.amount)
    if asked != (row.recipient, row.currency, row.amount):
        raise Conflict("this Idempotency-Key was used for another payout")
    posted = []
    given_up = row.state == State.CANCELLED and not row.fee_charged
    # Adoption took the amount from the available balance, which is wrong for a direct payout; a
    # cancelled one was given back already.
    if request.funding == "direct" and not given_up:
        posted.append(Entry(Ledger.PLATFORM, Ledger.AVAILABLE, row.amount + request.fee))
    if request.fee and row.fee_charged:
        posted.append(Entry(Ledger.AVAILABLE, Ledger.FEES, request.fee))
    elif request.fee and entries.is_pending(State(row.state)):
        posted.append(Entry(Ledger.AVAILABLE, Ledger.PENDING, request.fee))
    row.fee, row.funding, row.priority = request.fee, request.funding, request.priority
    row.idempotency_key, row.request, row.created_by = key, as_stored(request), by.name
    row.adopted = False
    books.annotate(row, by, "claim", "ordered again after a restore", posted)


async def _check_balances(
    session: AsyncSession, made: Sequence[Payout], recipients: Mapping[str, Recipient]
) -> None:
    """Raise `Conflict` if more is requested from a balance than is available."""
    request: Counter[tuple[str, str]] = Counter()
    for row in made:
        if row.funding == "balance":
            request[row.recipient_id, row.currency] += row.amount + row.fee
    available = await ledger.available_balances(session, [recipient for recipient, _ in request])
    for (recipient, currency), amount in request.items():
        if amount > (there := available[recipient, currency]):
            raise Conflict(f"{there} {currency} are available (minor units), not {amount}")
    for row in made:
        if row.funding == "balance" and row.state == State.SCHEDULED:
            owner = recipients[row.recipient]
            there = available[row.recipient_id, row.currency]
            row.credited_by = await ledger.creditors(session, owner, there)


def _minimum(recipient: Recipient) -> int:
    return Schedule.model_validate(recipient.schedule, extra="ignore").minimum


def _row(
    now: datetime,
    id_: str,
    key: str,
    request: NewPayout,
    recipient: Recipient,
    account: ProviderAccount,
    by: Actor,
    batch_id: str | None,
) -> Payout:
    # A fee is taken from the recipient's balance too.
    taken = request.amount + (request.fee if request.funding == "balance" else 0)
    waits = account.needs_approval(taken, request.currency)
    due_at = moment(request, now)
    return Payout(
        id=id_,
        tenant=recipient.tenant,
        created_at=now,
        idempotency_key=key,
        request=as_stored(request),
        recipient_id=recipient.id,
        batch_id=batch_id,
        provider=recipient.provider,
        account=recipient.account,
        amount=request.amount,
        fee=request.fee,
        fee_charged=False,
        amount_returned=0,
        currency=request.currency,
        funding=request.funding,
        priority=request.priority,
        state=State.SCHEDULED if waits else State.APPROVED,
        held=False,
        created_by=by.name,
        due_at=due_at,
        next_action_at=None if waits else due_at,
        attempts=0,
        failures=0,
        status_checks=0,
        version=0,
        updated_at=now,
    )

"""Payouts of one tenant at a model provider: actions of workers, operators, webhooks and the clock
in any order. The rules run on a real PostgreSQL, as in a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast, get_args
from uuid import uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from pydantic import SecretStr
from sqlalchemy import text

from common.contracts.payouts import ProcessPayout, ReconcileAccount, TransferReported
from common.contracts.registry import decode
from common.db.database import Sessions
from common.errors import Conflict, Forbidden, ProviderTimeout
from common.messaging.events import new_event
from common.messaging.outbox import UnitOfWork
from common.observability.redaction import Redactor
from common.resilience.call_guard import CallGuard
from common.security.encryption import SecretBox, new_key
from payouts import operator_actions, repository
from payouts.domain import State, TransferStatus
from payouts.execution.executor import PayoutExecutor
from payouts.execution.planner import (
    FRESH,
    CheckStatus,
    PayoutSent,
    PlannerConfig,
    PlannerInput,
    SendPayout,
    Start,
    StatusChecked,
    too_late,
)
from payouts.execution.status_updates import StatusCheckDelays
from payouts.handlers import Reports
from payouts.ledger.audit_log import Actor
from payouts.ledger.verification import verify
from payouts.models import Payout, Recipient
from payouts.payout_service import PayoutService
from payouts.providers.base import ListedTransfer
from payouts.providers.recipient_details import RecipientDetailsCipher
from payouts.providers.registry import Accounts, ProviderAccount
from payouts.recipient_service import RecipientService
from payouts.reconciliation.reconciler import Reconciler
from payouts.schemas import NewPayout, NewRecipient, RecipientChange
from support.payout_model import Answer, Kind, ModelClient, PayerClient, Provider

T = TypeVar("T")

_TIMEOUT = timedelta(seconds=1)
CLERK = Actor("clerk", "operator")
CHIEF = Actor("chief", "approver")
_HOW: tuple[Answer, ...] = get_args(Answer)


class _Accounts:
    def __init__(self, *accounts: ProviderAccount) -> None:
        self._accounts = {each.provider: each for each in accounts}

    def find(self, tenant: str, provider: str, name: str) -> ProviderAccount:
        return self._accounts[provider]


class World(RuleBasedStateMachine):
    """A state machine with its own tenant, so that examples share a database."""

    sessions: Sessions
    runner: asyncio.Runner
    kind: Kind

    @initialize(large=st.lists(st.booleans(), min_size=1, max_size=3))
    def begin_world(self, large: list[bool]) -> None:
        self.tenant = f"t{uuid4().hex[:12]}"
        self.provider = Provider(self.kind)
        self.client = ModelClient(self.provider)
        gate = CallGuard("x", label="x", max_concurrency=9, quota=None)
        self.account = ProviderAccount(self.tenant, "stripe", self.tenant, self.client, gate)
        # A provider that pays without requests, and the location that it pays.
        self.location = f"L{uuid4().hex[:12]}"
        self.payer = PayerClient(self.location)
        square = ProviderAccount(self.tenant, "square", self.tenant, self.payer, gate)
        self.accounts = cast("Accounts", _Accounts(self.account, square))
        self.details = RecipientDetailsCipher(SecretBox([SecretStr(new_key())]))
        self.times = StatusCheckDelays(
            first_look=timedelta(seconds=1), first_poll=timedelta(seconds=60)
        )
        self.service = PayoutService(self.accounts, self.details, reorder=timedelta(minutes=15))
        self.recipients = RecipientService(self.accounts, self.details)
        self.born: dict[int, timedelta] = {}
        self.in_hand: list[tuple[str, CheckStatus | SendPayout | PayoutSent | StatusChecked]] = []
        self.asked: list[tuple[str, NewPayout]] = []
        self.ids = [self.run(self.order(250_000 if each else 5_000)) for each in large]

    @property
    def submitter(self) -> PayoutExecutor:
        rules = PlannerConfig(self.details, _TIMEOUT, self.times, Redactor())
        return PayoutExecutor(self.sessions, self.accounts, rules)

    async def order(self, amount: int) -> str:
        reference = uuid4().hex
        recipient = NewRecipient(
            reference=reference,
            name="A Seller",
            provider="stripe",
            account="x",
            currency="USD",
            details={"account": f"acct_{uuid4().hex[:12]}"},
        )
        request = NewPayout(recipient=reference, amount=amount, fee=7, currency="USD")
        await self.add(recipient)
        self.asked.append((uuid4().hex, request))
        return await self.ask(*self.asked[-1])

    async def add(self, recipient: NewRecipient) -> str:
        async with self.sessions.begin() as session:
            row = await self.recipients.add(session, self.tenant, CHIEF, recipient)
            row.account = self.tenant
            await session.flush()
            return row.id

    async def ask(self, key: str, request: NewPayout) -> str:
        """Request a payout; the same key returns the same payout."""
        async with self.sessions.begin() as session:
            ordered = await self.service.create(session, self.tenant, key, CLERK, request)
            return ordered.payouts[0].id

    def run(self, doing: Awaitable[T]) -> T:
        async def do() -> T:
            return await doing

        return self.runner.run(do())

    def state_of(self, id_: str) -> dict[str, Any]:
        async def read() -> dict[str, Any]:
            async with self.sessions() as session:
                row = await session.get_one(Payout, id_)
                return {c.key: getattr(row, c.key) for c in Payout.__table__.columns}

        return self.run(read())

    def do(self, id_: str, item: PlannerInput) -> None:
        """Process one item in a worker's transaction; its next step goes to `in_hand`."""

        async def decide() -> Any:
            async with self.sessions.begin() as session:
                (result,) = await self.submitter.run(session, [(item, self.account)])
                return result

        next_ = self.run(decide())
        if isinstance(next_, Exception):
            raise next_
        if next_ is not None:
            self.in_hand.append((id_, next_))
            self.born[id(next_)] = self.provider.now

    which = st.integers(min_value=0, max_value=2)

    def one(self, which: int) -> str:
        return self.ids[which % len(self.ids)]

    @rule(which=which)
    def a_worker_begins(self, which: int) -> None:
        self.do(self.one(which), Start(self.one(which)))

    @rule(which=which, hows=st.lists(st.sampled_from(_HOW), min_size=3, max_size=3))
    def a_worker_works(self, which: int, hows: list[Answer]) -> None:
        """Run a worker from start to end; `hows` are the outcomes of its calls."""
        before = len(self.in_hand)
        self.a_worker_begins(which)
        for how in [*hows, "ok", "ok", "ok"]:
            if len(self.in_hand) > before:
                self.a_worker_goes_on(len(self.in_hand) - 1, how)

    @precondition(lambda self: self.in_hand)
    @rule(which=st.integers(0, 20), how=st.sampled_from(_HOW))
    def a_worker_goes_on(self, which: int, how: Answer) -> None:
        id_, task = self.in_hand.pop(which % len(self.in_hand))
        match task:
            case SendPayout():
                suspended = self.provider.now - self.born[id(task)] > FRESH
                answer = too_late() if suspended else self.provider.take(task.order, task.key, how)
                self.in_hand.append((id_, PayoutSent(id_, task.number, answer)))
            case CheckStatus():
                failed = how in {"error_before", "lost", "not_taken", "deferred"}
                found = ProviderTimeout("no answer") if failed else self.look(task)
                self.in_hand.append((id_, StatusChecked(id_, task.version, found)))
            case _:
                self.do(id_, task)

    def look(self, look: CheckStatus) -> Sequence[ListedTransfer]:
        return self.run(self.client.find(look.order, look.since))

    @precondition(lambda self: self.in_hand)
    @rule(which=st.integers(0, 20))
    def a_worker_dies(self, which: int) -> None:
        self.in_hand.pop(which % len(self.in_hand))

    @precondition(lambda self: self.provider.under_way)
    @rule(which=st.integers(0, 20))
    def a_request_lands_late(self, which: int) -> None:
        under_way = self.provider.under_way
        self.provider.land(under_way[which % len(under_way)])

    @precondition(lambda self: self.provider.transfers)
    @rule(which=st.integers(0, 20), transfer_status=st.sampled_from(["paid", "failed", "returned"]))
    def the_provider_settles(self, which: int, transfer_status: str) -> None:
        """Accepted becomes paid or failed; paid may be returned."""
        ids = list(self.provider.transfers)
        id_ = ids[which % len(ids)]
        now = self.provider.transfers[id_].found.transfer_status
        allowed = {TransferStatus.ACCEPTED: {"paid", "failed"}, TransferStatus.PAID: {"returned"}}
        if transfer_status in allowed.get(now, set()):
            self.provider.settle(id_, TransferStatus(transfer_status))

    @precondition(lambda self: self.provider.transfers)
    @rule(which=st.integers(0, 20), old=st.booleans())
    def a_webhook_comes(self, which: int, old: bool) -> None:
        """A webhook reports the current status, or belatedly the previous one, of any leg."""
        ids = list(self.provider.made)
        self.tell(ids[which % len(ids)], old=old)

    def tell(self, id_: str, *, old: bool = False) -> None:
        made = self.provider.made[id_]
        found = made.found
        # Dwolla's webhooks name only the transfer.
        reference = None if self.kind == "legs" else made.reference
        before = {
            TransferStatus.RETURNED: TransferStatus.PAID,
            TransferStatus.PAID: TransferStatus.ACCEPTED,
            TransferStatus.FAILED: TransferStatus.ACCEPTED,
        }
        transfer_status = (
            before.get(found.transfer_status, found.transfer_status)
            if old
            else found.transfer_status
        )
        type_ = {
            TransferStatus.ACCEPTED: "provider_payout.created",
            TransferStatus.PAID: "provider_payout.succeeded",
            TransferStatus.FAILED: "provider_payout.failed",
            TransferStatus.RETURNED: "provider_transfer.reversed",
        }[transfer_status]
        event = new_event(
            id=uuid4().hex,
            type=type_,
            source=f"/webhook-gateway/stripe/{self.tenant}",
            subject=found.transfer_id,
            tenant=self.tenant,
            data=TransferReported(
                provider="stripe", transfer_id=found.transfer_id, reference=reference
            ),
        )

        async def handle() -> None:
            reports = Reports(self.times)
            async with self.sessions.begin() as session:
                await reports.prepare(session, [event])
                work = UnitOfWork(session, "/payouts")
                await reports.on_report(work, event)
                await work.flush()

        self.run(handle())

    @rule(which=which, verb=st.sampled_from(["approve", "hold", "release", "cancel", "retry"]))
    def a_person_acts(self, which: int, verb: str) -> None:
        id_ = self.one(which)

        async def act() -> None:
            async with self.sessions.begin() as session:
                row = (await repository.lock_payouts(session, [id_]))[id_]
                more = {"accounts": self.accounts} if verb == "retry" else {}
                await getattr(operator_actions, verb)(session, row, CHIEF, "a test", **more)

        with suppress(Conflict, Forbidden):
            self.run(act())

    @rule(which=which)
    def the_clerk_approves(self, which: int) -> None:
        """The requester of a payout can never approve it."""
        before = self.state_of(self.one(which))

        async def act() -> None:
            async with self.sessions.begin() as session:
                rows = await repository.lock_payouts(session, [self.one(which)])
                await operator_actions.approve(session, rows[self.one(which)], CLERK, None)

        with pytest.raises((Conflict, Forbidden)):
            self.run(act())
        assert self.state_of(self.one(which))["state"] == before["state"]

    @rule(hours=st.sampled_from([0.001, 0.02, 1, 23.5, 25]))
    def time_passes(self, hours: float) -> None:
        """Make our rows older by the same time, because the database's clock cannot be set."""
        by = timedelta(hours=hours)
        self.provider.advance(by)
        self.payer.provider.advance(by)
        self.age(by)

    def age(self, by: timedelta) -> None:
        async def age() -> None:
            async with self.sessions.begin() as session:
                for statement in (
                    "UPDATE payouts SET due_at = due_at - :by, "
                    "next_action_at = next_action_at - :by "
                    "WHERE tenant = :tenant",
                    "UPDATE attempts SET started_at = started_at - :by, deadline = deadline - :by, "
                    "finished_at = finished_at - :by WHERE payout_id IN "
                    "(SELECT id FROM payouts WHERE tenant = :tenant)",
                ):
                    await session.execute(text(statement), {"by": by, "tenant": self.tenant})

        self.run(age())

    @invariant()
    def nobody_is_paid_twice(self) -> None:
        if not hasattr(self, "ids"):
            return
        for id_ in {made.reference for made in self.provider.made.values()}:
            again = self.provider.again[id_]
            assert self.provider.moving(id_) <= 1 + again, self.provider.of(id_)

    def details_change(self, which: int) -> None:
        """Change the recipient's account, which voids earlier approvals."""
        account = {"account": f"acct_{uuid4().hex[:12]}"}
        change = RecipientChange(details=account, reason="a new account")

        async def do() -> None:
            async with self.sessions.begin() as session:
                row = await session.get_one(Payout, self.one(which))
                await self.recipients.change(session, self.tenant, row.recipient_id, CHIEF, change)

        self.run(do())

    def is_hinted_at(self, id_: str) -> None:
        """Process a notification of a change: the provider is queried in any state."""
        before = len(self.in_hand)
        self.do(id_, Start(id_, ask=True))
        while len(self.in_hand) > before:
            self.a_worker_goes_on(len(self.in_hand) - 1, "ok")

    def reconcile(self, days: int = 5, provider: str = "stripe") -> None:
        """Reconcile the account's last days with the provider's list; query the differences."""
        worker = Reconciler(self.sessions, self.accounts, self.details, self.times)
        today = datetime.now(UTC).date()
        for back in range(days):
            work = ReconcileAccount(
                day=today - timedelta(days=back),
                provider=provider,
                account=self.tenant,
            )
            event = new_event(
                id=uuid4().hex,
                type="payout_reconciliation.run",
                source="/payouts",
                subject=self.tenant,
                tenant=self.tenant,
                data=work,
            )
            self.run(worker.run(event))
        for due in self.run(self._ordered()):
            self.is_hinted_at(due.payout_id)

    async def _ordered(self) -> list[ProcessPayout]:
        """Take the enqueued status checks from the outbox, which has no other consumer here."""
        async with self.sessions.begin() as session:
            taken = text("DELETE FROM outbox RETURNING body")
            bodies = (await session.execute(taken)).scalars().all()
        events = [decode(bytes(body)) for body in bodies]
        found = [e.data for e in events if e.tenant == self.tenant]
        return [each for each in found if isinstance(each, ProcessPayout) and each.ask]

    def seal_anew(self) -> None:
        """Seal the same details again with another ciphertext, as key rotation does."""

        async def seal() -> None:
            async with self.sessions.begin() as session:
                row = await session.get_one(Payout, self.ids[0])
                recipient = await session.get_one(Recipient, row.recipient_id)
                recipient.details = self.details.seal(
                    self.details.open("stripe", recipient.details)
                )

        self.run(seal())

    def teardown(self) -> None:
        """Let all faults end and everything complete; then our states must match the provider's."""
        if not hasattr(self, "ids"):
            return
        self.in_hand.clear()
        self.settle_down()
        for id_ in self.ids:
            self.agrees(id_)
        verdict = self.run(self.verified())
        assert verdict == []

    def settle_down(self) -> None:
        for _ in range(60):
            self.time_passes(1)
            for id_ in self.ids:
                self.do(id_, Start(id_))
            while self.in_hand:
                self.a_worker_goes_on(0, "ok")
            for id_, made in list(self.provider.made.items()):
                if made.found.transfer_status is TransferStatus.ACCEPTED:
                    self.provider.settle(id_, TransferStatus.PAID)
                self.tell(id_)
            if all(map(self.rests, self.ids)):
                break
        self.reconcile()

    def rests(self, id_: str) -> bool:
        """Return whether the payout waits for an operator or the hourly retry."""
        row = self.state_of(id_)
        held = row["held"] and row["state"] == State.APPROVED
        return held or row["state"] not in {"approved", "submitting", "unknown", "submitted"}

    def agrees(self, id_: str) -> None:
        row = self.state_of(id_)
        self.nobody_is_paid_twice()
        assert self.rests(id_), row
        assert (row["state"] == State.PAID) == bool(self.provider.moving(id_)), (
            row,
            self.provider.of(id_),
        )
        balance = self.run(self.balance(row["recipient_id"]))
        total = row["amount"] + row["fee"]
        assert sum(balance.values()) == 0
        match row["state"]:
            case State.PAID:
                assert (balance["paid"], balance["fees"]) == (row["amount"], row["fee"])
            case State.CANCELLED:
                assert (balance["pending"], balance["paid"]) == (0, 0)
                # A returned amount stays owed, even if its retry is cancelled.
                owed = row["amount"] if balance["fees"] else 0
                assert balance["available"] == owed, balance
            case State.RETURNED:
                assert (balance["available"], balance["fees"]) == (row["amount"], row["fee"])
            case _:
                assert balance["pending"] in {row["amount"], total}

    async def balance(self, recipient: str) -> dict[str, int]:
        query = text(
            "SELECT platform, available, pending, paid, fees FROM balances WHERE recipient_id = :id"
        )
        async with self.sessions() as session:
            found = (await session.execute(query, {"id": recipient})).mappings().one()
            return dict(found)

    async def verified(self) -> list[str]:
        async with self.sessions() as session:
            return (await verify(session)).faults

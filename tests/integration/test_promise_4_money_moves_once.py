"""Promise 4: money moves once. Any interleaving of submissions, crashes, time-outs, look-ups,
webhooks, retries, holds and cancellations pays a payout at most once, and when everything is quiet
the ledger says what the provider did.

The rules run on a real PostgreSQL, as a worker runs them; the provider is a model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar, cast, get_args
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from common import database
from common.contracts.event import root
from common.contracts.payouts import TransferReported
from common.crypto import Vault, new_key
from common.database import Sessions
from common.errors import Conflict, Forbidden
from common.gate import Gate
from common.messaging.outbox import Work
from common.outside import NoAnswer
from common.redaction import Redactor
from conftest import MakePaybus
from payouts import acting, repository
from payouts.accounts import Account, Accounts
from payouts.audit import Actor
from payouts.deciding import (
    FRESH,
    Answered,
    Begin,
    Item,
    Look,
    Looked,
    Rules,
    Send,
    too_late,
)
from payouts.details import Details
from payouts.domain import Fate, State
from payouts.handlers import Reports
from payouts.models import Payout, Recipient
from payouts.ordering import Desk
from payouts.requests import NewPayout, NewRecipient
from payouts.settling import Times
from payouts.submitting import Submitter
from payouts.verifying import verify
from support.payout_model import Answer, ModelClient, Provider

T = TypeVar("T")

_TIMEOUT = timedelta(seconds=1)
_CLERK = Actor("clerk", "operator")
_CHIEF = Actor("chief", "approver")
_HOW: tuple[Answer, ...] = get_args(Answer)


class _Accounts:
    def __init__(self, account: Account) -> None:
        self._account = account

    def find(self, tenant: str, provider: str, name: str) -> Account:
        return self._account


class World(RuleBasedStateMachine):
    """One tenant of its own, so that examples share a database."""

    sessions: Sessions
    runner: asyncio.Runner
    keyed: bool

    @initialize(large=st.lists(st.booleans(), min_size=1, max_size=3))
    def begin_world(self, large: list[bool]) -> None:
        self.tenant = f"t{uuid4().hex[:12]}"
        self.provider = Provider(keyed=self.keyed)
        gate = Gate("x", label="x", at_once=9, quota=None)
        self.account = Account(
            self.tenant, "stripe", self.tenant, ModelClient(keyed=self.keyed), gate
        )
        accounts = cast("Accounts", _Accounts(self.account))
        details = self.details = Details(Vault([SecretStr(new_key())]))
        self.times = Times(first_look=timedelta(seconds=1), first_poll=timedelta(seconds=60))
        rules = Rules(details, _TIMEOUT, self.times, Redactor())
        self.submitter = Submitter(self.sessions, accounts, rules)
        self.desk = Desk(accounts, details, reorder=timedelta(minutes=15))
        self.born: dict[int, timedelta] = {}
        self.in_hand: list[tuple[str, Look | Send | Answered | Looked]] = []
        self.ids = [self.run(self.order(250_000 if each else 5_000)) for each in large]

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
        wanted = NewPayout(recipient=reference, amount=amount, fee=7, currency="USD")
        async with self.sessions.begin() as session:
            row = await self.desk.add_recipient(session, self.tenant, _CHIEF, recipient)
            row.account = self.tenant
            await session.flush()
        async with self.sessions.begin() as session:
            ordered = await self.desk.order(session, self.tenant, uuid4().hex, _CLERK, wanted)
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

    def do(self, id_: str, item: Item) -> None:
        """One item through a worker's transaction; what it is to do next is in hand."""

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
        self.do(self.one(which), Begin(self.one(which)))

    @rule(which=which, hows=st.lists(st.sampled_from(_HOW), min_size=3, max_size=3))
    def a_worker_works(self, which: int, hows: list[Answer]) -> None:
        """From the beginning to the end; `hows` is what becomes of its calls."""
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
            case Send():
                suspended = self.provider.now - self.born[id(task)] > FRESH
                answer = too_late() if suspended else self.provider.take(task.order, task.key, how)
                self.in_hand.append((id_, Answered(id_, task.number, answer)))
            case Look():
                failed = how in {"error_before", "lost", "not_taken", "deferred"}
                found = NoAnswer("no answer") if failed else self.provider.list(id_)
                self.in_hand.append((id_, Looked(id_, task.version, found)))
            case _:
                self.do(id_, task)

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
    @rule(which=st.integers(0, 20), fate=st.sampled_from(["paid", "failed", "returned"]))
    def the_provider_settles(self, which: int, fate: str) -> None:
        """Accepted becomes paid or failed; what was paid may come back."""
        ids = list(self.provider.transfers)
        id_ = ids[which % len(ids)]
        now = self.provider.transfers[id_][1].fate
        allowed = {Fate.ACCEPTED: {"paid", "failed"}, Fate.PAID: {"returned"}}
        if fate in allowed.get(now, set()):
            self.provider.settle(id_, Fate(fate))

    @precondition(lambda self: self.provider.transfers)
    @rule(which=st.integers(0, 20), old=st.booleans())
    def a_webhook_comes(self, which: int, old: bool) -> None:
        """Of what is so, or late, of what was so before."""
        ids = list(self.provider.transfers)
        self.tell(ids[which % len(ids)], old=old)

    def tell(self, id_: str, *, old: bool = False) -> None:
        reference, found = self.provider.transfers[id_]
        before = {Fate.RETURNED: Fate.PAID, Fate.PAID: Fate.ACCEPTED, Fate.FAILED: Fate.ACCEPTED}
        fate = before.get(found.fate, found.fate) if old else found.fate
        type_ = {
            Fate.ACCEPTED: "provider_payout.created",
            Fate.PAID: "provider_payout.succeeded",
            Fate.FAILED: "provider_payout.failed",
            Fate.RETURNED: "transfer.reversed",
        }[fate]
        event = root(
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
                work = Work(session, "/payouts")
                await reports.on_report(work, event)
                await work.flush()

        self.run(handle())

    @rule(which=which, verb=st.sampled_from(["approve", "hold", "release", "cancel", "retry"]))
    def a_person_acts(self, which: int, verb: str) -> None:
        id_ = self.one(which)

        async def act() -> None:
            async with self.sessions.begin() as session:
                row = (await repository.lock_payouts(session, [id_]))[id_]
                await getattr(acting, verb)(session, row, _CHIEF, "a test")

        with suppress(Conflict, Forbidden):
            self.run(act())

    @rule(which=which)
    def the_clerk_approves(self, which: int) -> None:
        """Who ordered it never can."""
        before = self.state_of(self.one(which))

        async def act() -> None:
            async with self.sessions.begin() as session:
                rows = await repository.lock_payouts(session, [self.one(which)])
                await acting.approve(session, rows[self.one(which)], _CLERK, None)

        with pytest.raises((Conflict, Forbidden)):
            self.run(act())
        assert self.state_of(self.one(which))["state"] == before["state"]

    @rule(hours=st.sampled_from([0.001, 0.02, 1, 23.5, 25]))
    def time_passes(self, hours: float) -> None:
        """Our rows grow older by as much: the database's clock can't be set."""
        by = timedelta(hours=hours)
        self.provider.advance(by)

        async def age() -> None:
            async with self.sessions.begin() as session:
                for statement in (
                    "UPDATE payouts SET due_at = due_at - :by, next_at = next_at - :by "
                    "WHERE tenant = :tenant",
                    "UPDATE attempts SET started_at = started_at - :by, deadline = deadline - :by, "
                    "finished_at = finished_at - :by WHERE payout_id IN "
                    "(SELECT id FROM payouts WHERE tenant = :tenant)",
                ):
                    await session.execute(text(statement), {"by": by, "tenant": self.tenant})

        self.run(age())

    @invariant()
    def nobody_is_paid_twice(self) -> None:
        for id_ in getattr(self, "ids", []):
            assert self.provider.moving(id_) <= 1, self.provider.list(id_)

    def is_hinted_at(self, which: int) -> None:
        """Somebody says that it changed: the provider is asked whatever we think."""
        before = len(self.in_hand)
        self.do(self.one(which), Begin(self.one(which), ask=True))
        while len(self.in_hand) > before:
            self.a_worker_goes_on(len(self.in_hand) - 1, "ok")

    def seal_anew(self) -> None:
        """As the rotation of keys does: the same details, another text."""

        async def seal() -> None:
            async with self.sessions.begin() as session:
                row = await session.get_one(Payout, self.ids[0])
                recipient = await session.get_one(Recipient, row.recipient_id)
                recipient.details = self.details.seal(
                    self.details.open("stripe", recipient.details)
                )

        self.run(seal())

    def teardown(self) -> None:
        """Everything is well again, and quiet comes: what the provider did is what we say."""
        if not hasattr(self, "ids"):
            return
        self.in_hand.clear()
        for _ in range(60):
            self.time_passes(1)
            for id_ in self.ids:
                self.do(id_, Begin(id_))
            while self.in_hand:
                self.a_worker_goes_on(0, "ok")
            for id_, (_, found) in list(self.provider.transfers.items()):
                if found.fate is Fate.ACCEPTED:
                    self.provider.settle(id_, Fate.PAID)
                self.tell(id_)
            if all(map(self.rests, self.ids)):
                break
        for id_ in self.ids:
            self.agrees(id_)
        verdict = self.run(self.verified())
        assert verdict == []

    def rests(self, id_: str) -> bool:
        """Whether a person, or the hourly retry, has to do something before it goes on."""
        row = self.state_of(id_)
        held = row["held"] and row["state"] == State.APPROVED
        return held or row["state"] not in {"approved", "submitting", "unknown", "submitted"}

    def agrees(self, id_: str) -> None:
        row = self.state_of(id_)
        self.nobody_is_paid_twice()
        assert self.rests(id_), row
        assert (row["state"] == State.PAID) == bool(self.provider.moving(id_)), (
            row,
            self.provider.list(id_),
        )
        balance = self.run(self.balance(row["recipient_id"]))
        total = row["amount"] + row["fee"]
        assert sum(balance.values()) == 0
        match row["state"]:
            case State.PAID:
                assert (balance["paid"], balance["fees"]) == (row["amount"], row["fee"])
            case State.CANCELLED:
                assert (balance["pending"], balance["paid"]) == (0, 0)
            case State.RETURNED:
                assert balance["available"] in {row["amount"], total}
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


@pytest.fixture(scope="module")
def world(make_paybus: MakePaybus) -> Iterator[type[World]]:
    """With a database, and an event loop for its connections."""
    with make_paybus() as paybus, asyncio.Runner() as runner:
        url = paybus.layout.databases["payouts"]
        engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        World.sessions, World.runner = database.sessions_of(engine), runner
        yield World
        runner.run(engine.dispose())


@pytest.mark.parametrize("keyed", [True, False], ids=["with-keys", "without-keys"])
def test_promise_4_money_moves_once_whatever_happens(world: type[World], keyed: bool) -> None:
    world.keyed = keyed
    run_state_machine_as_test(
        world,
        settings=settings(
            max_examples=10,
            stateful_step_count=15,
            # To shrink takes minutes, and what failed is short enough to read.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# Each ends badly without one line of the code; found by the machine above or by thinking of it.
_STORIES: dict[str, list[tuple[Any, ...]]] = {
    "a refusal that was none": [
        ("works", "refused_after"),
        ("person", "retry"),
        ("works", "ok", "ok"),
    ],
    "asked too often, and done nevertheless": [("works", "deferred_after"), ("works", "ok", "ok")],
    "a request that lands after the look-up": [
        ("works", "later"),
        ("time", 0.002),
        ("works", "ok", "ok"),
        ("lands",),
    ],
    "a request that lands hours later": [
        ("works", "later"),
        ("time", 1),
        ("works", "ok", "ok"),
        ("lands",),
    ],
    "two look at once": [
        ("works", "error_before"),
        ("begins",),
        ("begins",),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
    ],
    "an answer from before": [
        ("works", "error_before"),
        ("time", 0.02),
        ("begins",),
        ("goes", 0, "ok"),
        ("works", "ok", "ok", "lost"),
        ("time", 0.02),
        ("goes", 0, "ok"),
        ("goes", 0, "ok"),
    ],
    "a key outlives an answer that was none": [
        ("works", "later"),
        ("time", 0.02),
        ("works", "ok", "ok", "deferred"),
        ("time", 0.02),
        ("works", "ok", "ok"),
        ("lands",),
    ],
    "a key outlives the rotation of keys": [
        ("works", "later"),
        ("sealed anew",),
        ("time", 0.02),
        ("works", "ok", "ok"),
        ("lands",),
    ],
    "a key that is used up": [
        ("works", "lost"),
        ("settles", Fate.FAILED),
        ("told",),
        ("person", "retry"),
        ("time", 0.02),
        ("works", "ok", "ok"),
        ("is", State.SUBMITTED),
    ],
    "cancelled, and paid after all": [
        ("works", "refused_after"),
        ("person", "cancel"),
        ("settles", Fate.PAID),
        ("hinted",),
        ("is", State.PAID),
    ],
    "failed, and paid after all": [
        ("works", "ok"),
        ("settles", Fate.FAILED),
        ("hinted",),
        ("is", State.FAILED),
        ("settles", Fate.PAID),
        ("hinted",),
        ("is", State.PAID),
    ],
    "paid, and sent back, told by nobody": [
        ("works", "ok"),
        ("settles", Fate.PAID),
        ("told",),
        ("settles", Fate.RETURNED),
        ("hinted",),
        ("is", State.RETURNED),
    ],
    "a process that was suspended": [
        ("begins",),
        ("time", 0.02),
        ("works", "ok", "ok"),
        ("goes", 0, "ok"),
    ],
    "a failure that is repeated for its key": [("works", "error_before", "ok", "ok")],
    "a key that is forgotten": [("works", "lost"), ("time", 25), ("works", "ok", "ok")],
    "paid and sent back, told in the other order": [
        ("works", "ok"),
        ("settles", Fate.PAID),
        ("settles", Fate.RETURNED),
        ("told",),
        ("told late",),
    ],
    "cancelled after a refusal that was none": [("works", "refused_after"), ("person", "cancel")],
}


@pytest.mark.parametrize("keyed", [True, False], ids=["with-keys", "without-keys"])
@pytest.mark.parametrize("story", _STORIES)
def test_promise_4_holds_in(world: type[World], story: str, keyed: bool) -> None:
    world.keyed = keyed
    told = world()
    told.begin_world([False])
    for what, *how in _STORIES[story]:
        _tell(told, what, how)
        told.nobody_is_paid_twice()
    told.teardown()


def _tell(world: World, what: str, how: list[Any]) -> None:  # noqa: PLR0912
    transfers = world.provider.transfers
    match what:
        case "works":
            world.a_worker_works(0, how)
        case "begins":
            world.a_worker_begins(0)
        case "goes":
            if world.in_hand:
                world.a_worker_goes_on(*how)
        case "person":
            world.a_person_acts(0, how[0])
        case "time":
            world.time_passes(how[0])
        case "hinted":
            world.is_hinted_at(0)
        case "sealed anew":
            world.seal_anew()
        case "is":
            assert world.state_of(world.ids[0])["state"] == how[0]
        case "lands":
            for request in list(world.provider.under_way):
                world.provider.land(request)
        case "settles":
            for id_ in transfers:
                world.provider.settle(id_, how[0])
        case _:
            for id_ in transfers:
                world.tell(id_, old=what == "told late")

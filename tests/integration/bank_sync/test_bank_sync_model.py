"""Bank data equals the bank's: any interleaving of changes, webhooks, crashes, take-overs and
mutations during a sync ends, after one quiet sync, with the bank's books row by row.

The service's own code runs on a real PostgreSQL; the bank is the sandbox's.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar, cast
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import create_async_engine

from bank_sync import handlers, models, repository
from bank_sync.clients.base import BankClient, PaginationMutated
from bank_sync.clients.plaid import page_of
from bank_sync.clients.rate_limiter import ProviderRateLimiter
from bank_sync.clients.registry import Client, Clients, Options
from bank_sync.domain import SyncPage
from bank_sync.models import Account, Item, Sync, Transaction
from bank_sync.row_security import TenantSessions
from bank_sync.sync_runner import Syncer
from common.contracts.banking import ProviderBankItem, RunBankSync
from common.contracts.event import Event
from common.db import database, tenant_rows
from common.db.database import Sessions
from common.errors import Busy, RateLimited, Upstream
from common.messaging.events import new_event
from common.messaging.outbox import UnitOfWork
from common.resilience.call_guard import CallGuard
from common.security.encryption import SecretBox, new_key
from conftest import MakePaybus
from sandbox.plaid.bank import Bank, Change, PlaidFault
from sandbox.plaid.bank import Item as BankItem

T = TypeVar("T")

_A_FEW_TRANSACTIONS = 3


class Died(BaseException):
    """A worker is killed: none of its code runs any more."""


class _Plaid:
    """The bank behind Plaid, with small pages. Actions can run before each response, and while it
    is in transit."""

    def __init__(self, bank: Bank, item: BankItem) -> None:
        self.meanwhile: deque[Callable[[], Awaitable[None]]] = deque()
        self.on_the_way: deque[Callable[[], Awaitable[None]]] = deque()
        self._bank = bank
        self._item = item

    async def sync(self, access_token: str, cursor: str) -> SyncPage:
        if self.meanwhile:
            await self.meanwhile.popleft()()
        try:
            answer = self._bank.sync(self._item, cursor, _A_FEW_TRANSACTIONS)
        except PlaidFault as fault:
            raise PaginationMutated(fault.code, 400) from fault
        page = page_of(answer)
        if self.on_the_way and not page.has_more:
            await self.on_the_way.popleft()()
        return page


class _Clients:
    def __init__(self, client: Client) -> None:
        self._client = client

    def find(self, tenant: str, name: str) -> Client:
        return self._client


class _Unlimited(ProviderRateLimiter):
    def __init__(self) -> None:
        pass

    async def acquire(self, name: str, per_minute: int) -> None:
        pass


_CHANGES = st.builds(
    Change,
    add=st.integers(0, 5),
    modify=st.integers(0, 3),
    remove=st.integers(0, 3),
    post=st.integers(0, 2),
)
_MEANWHILE = st.lists(
    st.sampled_from(["nothing", "changes", "webhook", "another", "expires", "dies", "fails"]),
    max_size=6,
)


class World(RuleBasedStateMachine):
    """A state machine with its own tenant and item, so that examples share a database."""

    sessions: Sessions
    runner: asyncio.Runner

    @initialize(first=st.integers(0, 9), seed=st.integers(0, 1000))
    def begin_world(self, first: int, seed: int) -> None:
        self.tenant = f"t{uuid4().hex[:12]}"
        self.bank = Bank(seed)
        self.at_bank = self.bank.open(
            client_id="x", institution_id="ins_109508", webhook=None, transactions=first
        )
        self.plaid = _Plaid(self.bank, self.at_bank)
        options = Options(client_id="x", secret=SecretStr("x"))
        gate = CallGuard("x", label="x", max_concurrency=9, quota=None, failures=1000)
        api = cast("BankClient", self.plaid)
        client = Client(self.tenant, "default", options, api, gate, _Unlimited())
        vault = SecretBox([SecretStr(new_key())])
        self.tenancy = TenantSessions(self.sessions)
        self.syncer = Syncer(
            self.tenancy,
            cast("Clients", _Clients(client)),
            vault,
            lease=timedelta(minutes=5),
            sweep=timedelta(hours=24),
        )
        self.messages: list[Event[RunBankSync]] = []
        self.item = models.item_id(self.tenant, self.at_bank.id)
        self.run(self.link(vault.encrypt("token")))

    async def link(self, token: str) -> None:
        async with self.tenancy.begin(self.tenant) as session:
            item = Item(
                id=self.item,
                tenant=self.tenant,
                client="default",
                item_id=self.at_bank.id,
                user="ama",
                access_token=token,
            )
            session.add(item)
            await session.flush()
            await repository.request_sync(
                session, item, "linked", await tenant_rows.database_now(session)
            )

    def run(self, doing: Awaitable[T]) -> T:
        async def do() -> T:
            return await doing

        return self.runner.run(do())

    async def take_messages(self) -> None:
        """Take the messages that a relay would publish; those of other examples are ignored."""
        async with self.sessions.begin() as session:
            query = text("DELETE FROM outbox WHERE routing_key = 'bank_sync.run' RETURNING body")
            for (body,) in (await session.execute(query)).all():
                said = json.loads(bytes(body))
                if said["tenant"] == self.tenant:
                    self.messages.append(Event[RunBankSync].model_validate(said))

    async def sync(self) -> None:
        """Process all waiting messages; a failed one is delivered again."""
        await self.take_messages()
        taken, self.messages = self.messages, []
        for event in taken:
            try:
                await self.syncer.run(event)
            except (Busy, Died, RateLimited, Upstream):
                self.messages.append(event)  # the broker delivers it again

    @rule(meanwhile=_MEANWHILE, change=_CHANGES)
    def a_worker_syncs(self, meanwhile: list[str], change: Change) -> None:
        acts: dict[str, Callable[[], Awaitable[None]]] = {
            "nothing": _nothing,
            "changes": lambda: self.changes(change),
            "webhook": self.webhook,
            "another": self.sync,
            "expires": self.expires,
            "dies": _die,
            "fails": _fail,
        }
        self.plaid.meanwhile = deque(acts[each] for each in meanwhile)
        self.run(self.sync())
        self.plaid.meanwhile.clear()

    @rule(change=_CHANGES)
    def a_worker_is_suspended_and_overtaken(self, change: Change) -> None:
        """It has read everything, and writes after another worker has read and written more."""

        async def overtaken() -> None:
            await self.changes(change)
            await self.expires()
            await self.order_overdue()
            await self.sync()

        self.plaid.on_the_way.append(overtaken)
        self.run(self.webhook())
        self.run(self.sync())
        self.plaid.on_the_way.clear()

    @rule(count=st.integers(1, 3))
    def what_came_last_goes(self, count: int) -> None:
        there = [each for each in self.at_bank.transactions.values() if not each.removed]
        for each in sorted(there, key=lambda each: -each.added)[:count]:
            self.at_bank.position += 1
            each.removed = each.changed = self.at_bank.position

    @rule(change=_CHANGES)
    def something_happens_at_the_bank(self, change: Change) -> None:
        self.run(self.changes(change))

    @rule(times=st.integers(1, 3))
    def webhooks_come(self, times: int) -> None:
        before = self.run(self.waiting())
        for _ in range(times):
            self.run(self.webhook())
        assert self.run(self.waiting()) <= max(1, before)

    @rule(mutations=st.integers(1, 3))
    def the_next_syncs_are_disturbed(self, mutations: int) -> None:
        self.at_bank.mutations = mutations

    @rule()
    def the_clock_strikes(self) -> None:
        """A sync without progress is taken over."""
        self.run(self.expires())
        self.run(self.order_overdue())

    @precondition(lambda self: self.messages)
    @rule()
    def a_message_comes_twice(self) -> None:
        self.messages.append(self.messages[0])

    async def changes(self, change: Change) -> None:
        self.bank.change(self.at_bank, change)

    async def webhook(self) -> None:
        event = new_event(
            id=uuid4().hex,
            type="provider_bank_item.updated",
            source="/webhook-gateway/plaid",
            subject=self.at_bank.id,
            tenant=self.tenant,
            data=ProviderBankItem(provider="plaid", item_id=self.at_bank.id),
        )
        async with self.sessions.begin() as session:
            await handlers.prepare(session, [event])
            work = UnitOfWork(session, "/bank-sync")
            await handlers.on_report(work, event)
            await work.flush()

    async def expires(self) -> None:
        async with self.tenancy.begin(self.tenant) as session:
            await session.execute(
                text("UPDATE sync_runs SET lease_until = now() WHERE lease_until > now()")
            )

    async def order_overdue(self) -> None:
        async with self.tenancy.begin(self.tenant) as session:
            now = await tenant_rows.database_now(session)
            found = await repository.overdue_syncs(session, now, timedelta(), 100)
            await repository.enqueue_syncs(session, [(e.tenant, e.item, e.id) for e in found], now)

    async def waiting(self) -> int:
        async with self.tenancy.begin(self.tenant) as session:
            query = select(Sync.id).where(Sync.status == "queued")
            return len((await session.scalars(query)).all())

    async def open_syncs(self) -> Sequence[str]:
        async with self.tenancy.begin(self.tenant) as session:
            query = select(Sync.id).where(Sync.status.in_(["queued", "running"]))
            return (await session.scalars(query)).all()

    def teardown(self) -> None:
        """The bank is quiet and sends a webhook; then the books are equal."""
        if not hasattr(self, "item"):
            return
        self.at_bank.mutations = 0
        self.run(self.webhook())
        for _ in range(5):
            self.run(self.expires())
            self.run(self.order_overdue())
            self.run(self.sync())
        assert self.run(self.open_syncs()) == []
        assert self.run(self.ours()) == self.theirs()

    async def ours(self) -> dict[str, Any]:
        async with self.tenancy.begin(self.tenant) as session:
            accounts = (await session.scalars(select(Account))).all()
            found = (await session.scalars(select(Transaction))).all()
            item = await session.get_one(Item, self.item)
        assert item.health == "healthy"
        return {
            "accounts": {each.account_id: each.current for each in accounts},
            "transactions": {
                each.transaction_id: (each.amount, each.date.isoformat(), each.merchant)
                for each in found
            },
        }

    def theirs(self) -> dict[str, Any]:
        (books,) = self.bank.books().values()
        return {
            "accounts": {
                id_: round(each["balances"]["current"] * 100)
                for id_, each in books["accounts"].items()
            },
            "transactions": {
                id_: (round(each["amount"] * 100), each["date"], each["merchant_name"])
                for id_, each in books["transactions"].items()
            },
        }


async def _nothing() -> None:
    pass


async def _die() -> None:
    raise Died


async def _fail() -> None:
    raise Upstream("answers 500")


@pytest.fixture(scope="module")
def world(make_paybus: MakePaybus) -> Iterator[type[World]]:
    """Provide a database and an event loop for its connections."""
    with make_paybus() as paybus, asyncio.Runner() as runner:
        url = paybus.layout.databases["bank-sync"]
        engine = create_async_engine(url)
        World.sessions, World.runner = database.sessions_of(engine), runner
        yield World
        with suppress(RuntimeError):
            runner.run(engine.dispose())


def test_the_books_are_equal_after_one_quiet_sync(world: type[World]) -> None:
    run_state_machine_as_test(
        world,
        settings=settings(
            max_examples=15,
            stateful_step_count=12,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_worker_that_was_overtaken_writes_nothing(world: type[World]) -> None:
    told = world()
    told.begin_world(5, 1)
    told.a_worker_syncs([], Change())
    told.a_worker_is_suspended_and_overtaken(Change(add=2))
    told.what_came_last_goes(2)
    told.teardown()

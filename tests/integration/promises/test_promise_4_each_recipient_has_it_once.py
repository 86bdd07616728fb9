"""Promise 4 from the recipient's side: by the provider's books, each recipient gets exactly what
they are owed, despite schedules, approvals, restores of an older database at any time, funding legs
of transfers, transfers that the provider duplicates, and returns of either of two transfers.

The code of workers, jobs and the API runs on a real PostgreSQL that is really backed up and
restored; the provider is a model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, get_args
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from common.db import database, tenant_rows
from common.errors import Conflict, Forbidden, NotYet, ProviderTimeout
from conftest import MakePaybus
from payouts import jobs, operator_actions, repository
from payouts.domain import TransferStatus
from payouts.execution.planner import Start
from payouts.ledger.audit_log import Actor
from payouts.schemas import Credit, NewRecipient, Schedule
from support.paybus import Paybus
from support.payout_model import Kind
from support.payout_world import CHIEF, CLERK, World

_ADMIN = Actor("admin", "admin")
_BACKUP = "world_backup"
# The last amount exceeds the limit for a single person.
_AMOUNTS = (3_000, 40_000, 150_000)


class Market(World):
    """Adds a seller who is paid by a schedule and a shop whose provider pays without requests."""

    paybus: ClassVar[Paybus]
    engine: ClassVar[AsyncEngine]

    @initialize(large=st.lists(st.booleans(), min_size=1, max_size=2))
    def begin_world(self, large: list[bool]) -> None:
        super().begin_world(large)
        self.credits: list[tuple[str, int]] = []
        self.backup: timedelta | None = None
        self.restored_at = timedelta()
        self.seller = self.run(
            self.add(
                NewRecipient(
                    reference="seller",
                    name="A Seller",
                    provider="stripe",
                    account="x",
                    currency="USD",
                    details={"account": f"acct_{uuid4().hex[:12]}"},
                    schedule=Schedule(kind="threshold", minimum=1),
                )
            )
        )
        self.shop = self.run(
            self.add(
                NewRecipient(
                    reference="shop",
                    name="A Shop",
                    provider="square",
                    account="x",
                    currency="USD",
                    details={"location_id": self.location},
                )
            )
        )
        self.credit(_AMOUNTS[0])

    @rule(amount=st.sampled_from((700, 2_000, -500)))
    def square_pays_or_takes_back(self, amount: int) -> None:
        self.payer.pay(amount)
        self.reconcile(1, "square")

    @rule(amount=st.sampled_from(_AMOUNTS))
    def credit(self, amount: int) -> None:
        self.credits.append((uuid4().hex, amount))
        self.run(self._credit(*self.credits[-1]))

    @rule()
    def the_schedule_pays(self) -> None:
        async def pay() -> None:
            async with self.sessions.begin() as session:
                now = await tenant_rows.database_now(session)
                found = await repository.recipients_due(session, now, 1000)
                mine = [(each, None) for each in found if each.tenant == self.tenant]
                await self.service.pay_balances(session, mine)

        self.run(pay())
        self.see()

    @rule()
    def a_good_day(self) -> None:
        """Enqueue, approve, send and complete everything that is due."""
        self.the_schedule_pays()
        for id_ in self.ids:
            self._approve(id_)
            before = len(self.in_hand)
            self.do(id_, Start(id_))
            while len(self.in_hand) > before:
                self.a_worker_goes_on(len(self.in_hand) - 1, "ok")

    @precondition(lambda self: self.provider.transfers)
    @rule(which=st.integers(0, 20))
    def a_transfer_comes_back(self, which: int) -> None:
        """A transfer, paid or not, is returned and reported."""
        ids = list(self.provider.transfers)
        id_ = ids[which % len(ids)]
        self.provider.settle(id_, TransferStatus.RETURNED)
        self.tell(id_)

    @precondition(lambda self: self.provider.transfers and not self.provider.again)
    @rule(which=st.integers(0, 20))
    def the_provider_makes_one_again(self, which: int) -> None:
        ids = list(self.provider.transfers)
        self.provider.make_again(ids[which % len(ids)])

    @precondition(lambda self: self.backup is None)
    @rule()
    def somebody_backs_up(self) -> None:
        self.backup = self.provider.now
        self._clone(_BACKUP, self._name())

    @precondition(lambda self: self.backup is not None)
    @rule()
    def somebody_restores(self) -> None:
        """Restore by docs/runbooks/payouts-restore.md; workers resume immediately."""
        assert self.backup is not None
        self.in_hand.clear()
        self._clone(self._name(), _BACKUP)
        forgotten = self.provider.now - self.backup
        self.age(forgotten)
        self.run(self._require_status_check(datetime.now(UTC) - forgotten - timedelta(minutes=1)))
        self.backup = None
        self.restored_at = self.provider.now
        self.see()

    @rule(answers=st.booleans(), ends=st.booleans())
    def the_account_is_compared(self, answers: bool, ends: bool) -> None:
        """Reconcile each day that the restored database may have lost; the provider may be
        unavailable. After all days are reconciled, an admin may end the status checks."""
        self.client.answers = answers
        with suppress(ProviderTimeout):
            self.compare(self.run(self._unreconciled()))
        self.client.answers = True
        if ends and not self.run(self._unreconciled()):
            self.run(self._require_status_check(None))
        self.see()

    @rule(which=st.integers(0, 20))
    def a_caller_asks_again(self, which: int) -> None:
        """A caller repeats a request with its original key."""
        every: list[tuple[str, Any]] = [*self.asked, *self.credits]
        key, wanted = every[which % len(every)]
        self.ask_again(key, wanted)
        self.see()

    @rule(which=st.integers(0, 2))
    def the_chief_approves(self, which: int) -> None:
        self._approve(self.one(which))

    @invariant()
    def nobody_has_too_much(self) -> None:
        if hasattr(self, "credits"):
            owed = sum(amount for _, amount in self.credits)
            assert self.provider.has(self.seller) <= owed

    def ask_again(self, key: str, wanted: Any) -> None:
        with suppress(NotYet):
            if isinstance(wanted, int):
                self.run(self._credit(key, wanted))
            else:
                self.run(self.ask(key, wanted))

    def see(self) -> None:
        """Read the current payouts: a restore has lost some, schedules create others."""

        async def read() -> list[str]:
            query = (
                "SELECT id FROM payouts WHERE tenant = :tenant AND provider = 'stripe' "
                "ORDER BY created_at, id"
            )
            async with self.sessions() as session:
                found = await session.execute(text(query), {"tenant": self.tenant})
                return [id_ for (id_,) in found]

        self.ids = self.run(read())

    def settle_down(self) -> None:
        """Callers repeat all requests, the approver approves, and no operator retries."""
        self.compare(self.run(self._unreconciled()))
        for key, wanted in [*self.asked, *self.credits]:
            self.ask_again(key, wanted)
        for _ in range(5):
            self.the_schedule_pays()
            for id_ in self.ids:
                self._approve(id_)
            super().settle_down()
        self.see()

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "credits"):
            self.the_seller_s_books_agree()
            self.the_shop_s_books_agree()

    def the_shop_s_books_agree(self) -> None:
        """A withdrawal reduces the paid amount in the ledger."""
        if not self.payer.provider.made:
            return
        days = self.payer.provider.now.days + 2
        self.reconcile(days, "square")
        assert self.run(self.balance(self.shop))["paid"] == self.payer.paid

    def the_seller_s_books_agree(self) -> None:
        balance = self.run(self.balance(self.seller))
        owed = sum(amount for _, amount in self.credits)
        assert balance["paid"] == self.provider.has(self.seller), balance
        assert balance["available"] + balance["pending"] + balance["paid"] == owed, balance

    def agrees(self, id_: str) -> None:
        if self.state_of(id_)["recipient_id"] != self.seller:
            super().agrees(id_)

    def compare(self, days: list[Any]) -> None:
        if not days:
            return
        back = max((datetime.now(UTC).date() - each).days for each in days)
        # Time that passes here makes the provider's list older, but not our days.
        passed = (self.provider.now - self.restored_at).days + 1
        self.reconcile(back + passed + 1)

    def _approve(self, id_: str) -> None:
        async def act() -> None:
            async with self.sessions.begin() as session:
                row = (await repository.lock_payouts(session, [id_]))[id_]
                await operator_actions.approve(session, row, CHIEF, None)

        with suppress(Conflict, Forbidden):
            self.run(act())

    async def _credit(self, key: str, amount: int) -> None:
        wanted = Credit(amount=amount, currency="USD", reason="sold")
        async with self.sessions.begin() as session:
            await self.recipients.credit(session, self.tenant, self.seller, key, CLERK, wanted)

    async def _require_status_check(self, since: datetime | None) -> None:
        """Require status checks after a restore; None ends the requirement."""
        async with self.sessions.begin() as session:
            now = await tenant_rows.database_now(session)
            await operator_actions.require_status_check_until(
                session,
                self.tenant,
                _ADMIN,
                "restored",
                until=now + timedelta(days=30) if since else now,
                unreconciled=jobs.forgotten_days([self.account], since, now) if since else [],
            )

    async def _unreconciled(self) -> list[Any]:
        async with self.sessions() as session:
            return [each.day for each in await repository.recoveries(session, self.tenant)]

    def _name(self) -> str:
        return self.paybus.layout.databases["payouts"].rpartition("/")[2].partition("?")[0]

    def _clone(self, to: str, source: str) -> None:
        self.run(self.engine.dispose())
        self.paybus.disconnect("payouts")
        stack = self.paybus.system._stack
        stack.drop_database(to)
        stack.database(to, owner="template_payouts", template=source)


@pytest.fixture(scope="module")
def market(make_paybus: MakePaybus) -> Iterator[type[Market]]:
    with make_paybus() as paybus, asyncio.Runner() as runner:
        url = paybus.layout.databases["payouts"]
        engine = create_async_engine(url)
        Market.sessions, Market.runner = database.sessions_of(engine), runner
        Market.paybus, Market.engine = paybus, engine
        yield Market
        runner.run(engine.dispose())


@pytest.mark.parametrize("kind", get_args(Kind))
def test_promise_4_each_recipient_has_it_once(market: type[Market], kind: Kind) -> None:
    market.kind = kind
    run_state_machine_as_test(
        market,
        settings=settings(
            max_examples=8,
            stateful_step_count=20,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

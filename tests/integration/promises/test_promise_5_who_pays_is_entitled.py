"""Promise 5 for entitlements: after all of Stripe's events have arrived, in any order and number,
by the tenant's policy a paying customer is entitled and has an organization, and a customer who
does not pay is not entitled and has none.

The code of the gateway and both services runs on a real PostgreSQL; Stripe is a model of its
account.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

import httpx
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
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from common.contracts.event import Event
from common.contracts.jobs import RunJob
from common.contracts.registry import decode
from common.db import database
from common.db.database import Sessions
from common.errors import NotFound
from common.messaging import inbox
from common.messaging.events import new_event
from common.messaging.outbox import UnitOfWork
from common.messaging.transactional_consumer import Handler, Prepare
from common.observability.redaction import Redactor
from common.resilience.cache import Cache
from common.resilience.call_guard import CallGuard
from common.security.encryption import SecretBox, new_key
from conftest import MakePaybus
from provisioning import handlers as provisioning
from provisioning.clients.backend import Backend
from provisioning.provisioner import Provisioner
from subscription import handlers as subscription
from subscription import repository
from subscription.checkouts.payers import Payers
from subscription.schemas.checkout import EntitlementPolicy
from subscription.subscriptions import renewals
from subscription.subscriptions.entitlements import EntitlementService
from support.providers import a_provider
from support.stripe_book import DAY, Book, Theirs
from webhook_gateway.providers.base import Authentication, Provider

T = TypeVar("T")
_PREPARE = partial(subscription.prepare, Payers(SecretBox([SecretStr(new_key())])))
_SHOWN = {
    "incomplete": "incomplete",
    "incomplete_expired": "expired",
    "trialing": "active",
    "active": "active",
    "past_due": "past_due",
    "unpaid": "unpaid",
    "paused": "paused",
    "canceled": "cancelled",
}
_PRICES = ("gold", "silver", "platinum")
policies = st.builds(
    EntitlementPolicy,
    past_due=st.booleans(),
    past_due_grace_days=st.sampled_from((None, 0, 3, 400)),
    unpaid=st.booleans(),
    paused=st.booleans(),
)
which = st.integers(0, 3)


class Shop(RuleBasedStateMachine):
    """A state machine with its own tenant, so that examples share a database."""

    runner: ClassVar[asyncio.Runner]
    subscriptions: ClassVar[Sessions]
    organizations: ClassVar[Sessions]
    provisioner: ClassVar[Provisioner]

    @initialize()
    def begin_shop(self) -> None:
        self.tenant = f"t{uuid4().hex[:12]}"
        self.gateway: Provider = a_provider("stripe", "whsec_x", tenant=self.tenant)
        self.book = Book(int(time.time()) - 200 * DAY)
        self.policy = EntitlementPolicy()
        self.customers = [f"cus_{uuid4().hex[:12]}" for _ in range(2)]
        self.delivered = 0
        self.handlers = provisioning.Handlers(self.provisioner)
        self.book.begin(self.customers[0], "active", "silver")

    # Changes at Stripe.

    @rule(
        who=st.integers(0, 1),
        status=st.sampled_from(("incomplete", "trialing", "active")),
        price=st.sampled_from(_PRICES),
    )
    def somebody_subscribes(self, who: int, status: str, price: str) -> None:
        if len(self.book.subscriptions) < 4:
            self.book.begin(self.customers[who], status, price)

    @rule(which=which)
    def an_invoice_is_paid(self, which: int) -> None:
        it = self.one(which)
        if it.status in {"incomplete", "trialing", "active", "past_due", "unpaid"}:
            self.book.change(it, status="active", period_end=self.book.now + 30 * DAY)
            self.book.bill(it, paid=True)

    @rule(which=which)
    def an_invoice_is_not_paid(self, which: int) -> None:
        it = self.one(which)
        if it.status in {"trialing", "active"}:
            self.book.change(it, status="past_due", period_end=self.book.now + 30 * DAY)
        if it.status in {"incomplete", "past_due"}:
            self.book.bill(it, paid=False)

    @rule(which=which, how=st.sampled_from(("unpaid", "canceled")))
    def stripe_gives_up(self, which: int, how: str) -> None:
        it = self.one(which)
        if it.status == "incomplete":
            self.book.change(it, status="incomplete_expired")
        elif it.status == "past_due" and how == "unpaid":
            self.book.change(it, status="unpaid")
        elif it.status in {"past_due", "unpaid"}:
            self.book.end(it)

    @rule(which=which)
    def a_trial_ends_without_a_card(self, which: int) -> None:
        it = self.one(which)
        if it.status == "trialing":
            self.book.change(it, "paused", status="paused")

    @rule(which=which)
    def a_paused_one_is_resumed(self, which: int) -> None:
        it = self.one(which)
        if it.status == "paused":
            self.book.change(it, "resumed", status="active")

    @rule(which=which, price=st.sampled_from(_PRICES), released=st.booleans())
    def a_plan_is_changed(self, which: int, price: str, released: bool) -> None:
        """Our command releases a schedule first: two events of one second."""
        it = self.one(which)
        if self.goes_on(it):
            if released:
                self.book.change(it, schedule=None if it.thing["schedule"] else "sub_sched_x")
            self.book.change(it, price=price)

    @rule(which=which, flexible=st.booleans(), back=st.booleans())
    def the_portal_ends_it_later(self, which: int, flexible: bool, back: bool) -> None:
        it = self.one(which)
        if not self.goes_on(it):
            return
        if it.ends:
            self.book.change(it, cancel_at=None, cancel_at_period_end=False)
            return
        end = it.thing["items"]["data"][0]["current_period_end"]
        self.book.change(it, cancel_at=end, cancel_at_period_end=not flexible)
        if back:  # immediately: the customer has reconsidered
            self.book.change(it, cancel_at=None, cancel_at_period_end=False)

    @rule(which=which)
    def it_is_ended_now(self, which: int) -> None:
        it = self.one(which)
        if it.status not in {"canceled", "incomplete_expired"}:
            self.book.end(it)

    @rule(which=which)
    def collection_is_paused_or_not(self, which: int) -> None:
        """Pausing the collection changes neither the status nor the entitlement."""
        it = self.one(which)
        if self.goes_on(it):
            paused = None if it.thing["pause_collection"] else {"behavior": "void"}
            self.book.change(it, pause_collection=paused)

    @rule(which=which, status=st.sampled_from(("active", "canceled")), test=st.booleans())
    def others_have_events(self, which: int, status: str, test: bool) -> None:
        marks = {"livemode": False} if test else {"account": "acct_others"}
        self.book.say_of_others(self.one(which), status, **marks)

    @rule(seconds=st.sampled_from((1, 60, DAY, 10 * DAY)))
    def time_passes(self, seconds: int) -> None:
        self.book.now = min(self.book.now + seconds, int(time.time()) - 60)

    # Changes in Paybus.

    @precondition(lambda self: len(self.book.told) > self.delivered)
    @rule(chance=st.randoms(use_true_random=False))
    def some_webhooks_come(self, chance: Any) -> None:
        """Deliver some of the new webhooks, and some old ones again."""
        some = [each for each in self.book.told if chance.random() < 0.5]
        chance.shuffle(some)
        self.deliver(some)

    @rule(policy=policies)
    def the_policy_is_changed(self, policy: EntitlementPolicy) -> None:
        async def change() -> None:
            async with self.subscriptions.begin() as session:
                await repository.set_policy(session, self.tenant, policy, "admin")

        self.policy = policy
        self.run(change())

    @rule(chance=st.randoms(use_true_random=False))
    def everything_has_come(self, chance: Any) -> None:
        every = list(self.book.told)
        chance.shuffle(every)
        self.deliver(every)
        self.delivered = len(every)
        self.the_job_runs()
        self.provisioning_hears(chance)
        for it in self.book.subscriptions:
            self.is_as_at_stripe(it)
        for customer in self.customers:
            self.has_what_they_pay_for(customer)

    def teardown(self) -> None:
        if hasattr(self, "handlers"):
            self.run(self._forget())

    def one(self, which: int) -> Theirs:
        return self.book.subscriptions[which % len(self.book.subscriptions)]

    def goes_on(self, it: Theirs) -> bool:
        return it.status in {"trialing", "active", "past_due", "unpaid", "paused"}

    def run(self, doing: Awaitable[T]) -> T:
        async def do() -> T:
            return await doing

        return self.runner.run(do())

    def deliver(self, webhooks: Sequence[dict[str, Any]]) -> None:
        for start in range(0, len(webhooks), 5):
            events = [
                decode(event.encode())
                for webhook in webhooks[start : start + 5]
                for event in self.gateway.translate(
                    json.dumps(webhook).encode(), Authentication("signature")
                )
                if event.type in subscription.HANDLERS
            ]
            self.run(_take(self.subscriptions, events, subscription.HANDLERS, _PREPARE))

    def the_job_runs(self) -> None:
        async def run() -> None:
            async with self.subscriptions.begin() as session:
                work = UnitOfWork(session, "/subscription")
                due = RunJob(job="renewals", run_id=uuid4().hex)
                tick = new_event(
                    id=uuid4().hex,
                    type="job.run.subscription",
                    source="/subscription",
                    subject="renewals",
                    tenant=self.tenant,
                    data=due,
                )
                await renewals.run(work, tick)
                await work.flush()

        self.run(run())

    def provisioning_hears(self, chance: Any) -> None:
        """Deliver the events in any order, some of them repeatedly."""

        async def published() -> list[Event[Any]]:
            async with self.subscriptions.begin() as session:
                bodies = await session.scalars(text("SELECT body FROM outbox"))
                return [decode(body) for body in bodies]

        told = self.handlers.by_event()
        events = [
            each
            for each in self.run(published())
            if each.type in told and each.tenant == self.tenant
        ]
        chance.shuffle(events)
        self.run(_take(self.organizations, events, told, provisioning.prepare))

    def is_entitled(self, it: Theirs) -> bool:
        """Return whether Stripe's status and the tenant's policy entitle the customer."""
        match it.status:
            case "trialing" | "active":
                return True
            case "past_due":
                days = self.policy.past_due_grace_days
                since = datetime.fromtimestamp(it.since, UTC)
                in_time = days is None or datetime.now(UTC) < since + timedelta(days=days)
                return self.policy.past_due and in_time
            case "unpaid":
                return self.policy.unpaid
            case "paused":
                return self.policy.paused
            case _:
                return False

    def is_as_at_stripe(self, it: Theirs) -> None:
        query = (
            "SELECT s.status, p.provider_plan_id, "
            "s.cancel_at_period_end OR s.cancel_at IS NOT NULL, s.phase "
            "FROM subscriptions s JOIN plans p ON p.id = s.plan_id "
            "WHERE s.tenant = :tenant AND s.provider_subscription_id = :id"
        )
        (found,) = self.run(_read(self.subscriptions, query, tenant=self.tenant, id=it.thing["id"]))
        assert tuple(found[:3]) == (_SHOWN[it.status], it.price, it.ends)
        entitled = found[3] in {"active", "past_due"}
        assert entitled is self.is_entitled(it), (found, it)

    def has_what_they_pay_for(self, customer: str) -> None:
        mine = [each for each in self.book.subscriptions if each.thing["customer"] == customer]
        try:
            # With a new cache, because a cached entitlement may be almost a second old.
            entitling = EntitlementService(self.subscriptions, Cache("entitlements", None))
            found = self.run(entitling.get(self.tenant, customer))
        except NotFound:
            assert not mine
            return
        right = [each.price for each in mine if self.is_entitled(each)]
        assert sorted(str(each.plan) for each in found.plans) == sorted(right)
        query = "SELECT desired_state FROM integrations WHERE tenant = :tenant AND email = :email"
        email = f"{customer}@example.com"
        organization = self.run(_read(self.organizations, query, tenant=self.tenant, email=email))
        wanted = organization[0][0] if organization else "absent"
        assert (wanted == "active") is bool(right), wanted

    async def _forget(self) -> None:
        """Delete rows with due times, which every later example would otherwise process."""
        async with self.subscriptions.begin() as session:
            await session.execute(text("DELETE FROM subscriptions"))
            await session.execute(text("DELETE FROM outbox"))


async def _take(
    sessions: Sessions,
    events: Sequence[Event[Any]],
    handlers: Any,
    prepare: Prepare,
) -> None:
    """Process events as a consumer's batch."""
    async with sessions.begin() as session:
        fresh = await inbox.claim(session, "rights", events)
        if fresh:
            await prepare(session, fresh)
        work = UnitOfWork(session, "/rights")
        for event in fresh:
            handler: Handler = handlers[event.type]
            await handler(work, event)
        await work.flush()


async def _read(sessions: Sessions, query: str, **values: Any) -> Sequence[Any]:
    async with sessions() as session:
        return (await session.execute(text(query), values)).all()


@pytest.fixture(scope="module")
def shop(make_paybus: MakePaybus) -> Iterator[type[Shop]]:
    with make_paybus() as paybus, asyncio.Runner() as runner:
        engines = AsyncExitStack()
        for name, service in (("subscriptions", "subscription"), ("organizations", "provisioning")):
            url = paybus.layout.databases[service]
            engine = create_async_engine(url)
            engines.push_async_callback(engine.dispose)
            setattr(Shop, name, database.sessions_of(engine))
        Shop.runner = runner
        # Switched off: only the desired state counts here, and no backend API is called.
        Shop.provisioner = Provisioner(
            Shop.organizations,
            Backend(httpx.AsyncClient()),
            CallGuard("backend", label="backend", max_concurrency=1, quota=None),
            enabled=False,
            look_first=False,
            timeout=1,
            redact=Redactor(),
        )
        yield Shop
        runner.run(engines.aclose())


def test_promise_5_who_pays_is_entitled_and_who_does_not_is_not(shop: type[Shop]) -> None:
    run_state_machine_as_test(
        shop,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Relay and inbox as a state machine, with crashes between any two steps.

Events are emitted, relayed and consumed on a real broker and database, in any order that Hypothesis
generates; each step may crash half-way. In the end every committed event must have had its effect
once, and no other event may have had any.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

import pytest
from aio_pika.abc import AbstractIncomingMessage
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from common.contracts import registry
from common.contracts.event import Event
from common.contracts.payments import PaymentOutcome
from common.contracts.retry_ladder import RetryLadder
from common.db import database
from common.errors import Unavailable
from common.messaging import inbox, outbox
from common.messaging.connection import BrokerConnection
from common.messaging.publisher import Message, NotTaken, Publisher
from common.messaging.relay import Relay
from common.messaging.topology_declarer import declaring
from conftest import MakePaybus
from support.paybus import SHORT_LADDER
from support.waiting import until

QUEUE = "subscription.billing"

ValueT = TypeVar("ValueT")


class Crash(Exception):
    """The process crashes here."""


class FragilePublisher(Publisher):
    """Cancels its task after a number of publishes, or refuses all, as when the broker is down or a
    queue is full."""

    refuses: Unavailable | None = None
    crash_after: int | None = None
    victim: asyncio.Task[Any] | None = None

    async def publish_all(
        self, messages: Sequence[Message], **options: Any
    ) -> list[Unavailable | None]:
        if self.refuses is not None:
            return [self.refuses] * len(messages)
        if self.crash_after is None:
            return await super().publish_all(messages, **options)
        outcomes = await super().publish_all(messages[: self.crash_after], **options)
        assert self.victim is not None
        self.victim.cancel()
        await asyncio.sleep(0)
        return outcomes


class World:
    """The broker and the database shared by all runs of the state machine."""

    def __init__(self, rabbitmq_url: str, database_url: str) -> None:
        self._runner = asyncio.Runner()
        self._rabbitmq_url = rabbitmq_url
        self._database_url = database_url
        self.do(self._open())

    def do(self, work: Coroutine[Any, Any, ValueT]) -> ValueT:
        return self._runner.run(work)

    def close(self) -> None:
        self.do(self.broker.close())
        self.do(self.engine.dispose())
        self._runner.close()

    async def _open(self) -> None:
        self.engine = create_async_engine(self._database_url)
        self.sessions = database.sessions_of(self.engine)
        self.broker = BrokerConnection(
            self._rabbitmq_url, name="test", on_connect=declaring(RetryLadder.parse(SHORT_LADDER))
        )
        await self.broker.start()
        self.publisher = FragilePublisher(self.broker)
        self.relay = Relay(self.engine, self.publisher)
        await self.broker.channel(within=30)
        async with self.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE effects (id text)"))

    async def empty(self) -> None:
        channel = await self.broker.channel(confirms=False)
        await (await channel.get_queue(QUEUE, ensure=False)).purge()
        await channel.close()
        async with self.engine.begin() as connection:
            await connection.execute(text("TRUNCATE inbox, outbox, effects"))

    async def emit(self, event: Event[Any], *, commit: bool) -> None:
        with suppress(Crash):
            async with self.sessions.begin() as session:
                await outbox.enqueue(session, [event])
                if not commit:
                    raise Crash

    async def relay_batch(
        self, *, crash_after: int | None = None, refused: Unavailable | None = None
    ) -> None:
        self.publisher.crash_after = crash_after
        self.publisher.refuses = refused
        task = asyncio.create_task(self.relay.publish_batch())
        self.publisher.victim = task
        await asyncio.wait([task])
        self.publisher.crash_after = self.publisher.refuses = None

    async def take_in(self, count: int, *, crash: str | None) -> int:
        """Process up to `count` messages in one transaction, as a transactional consumer does."""
        channel = await self.broker.channel(confirms=False)
        try:
            queue = await channel.get_queue(QUEUE, ensure=False)
            taken: list[AbstractIncomingMessage] = []
            while len(taken) < count and (message := await queue.get(fail=False)) is not None:
                taken.append(message)
            events = [registry.decode(message.body) for message in taken]
            with suppress(Crash):
                async with self.sessions.begin() as session:
                    for event in await inbox.claim(session, QUEUE, events):
                        await session.execute(
                            text("INSERT INTO effects VALUES (:id)"), {"id": event.id}
                        )
                    if crash == "before the commit":
                        raise Crash
                if crash == "before the acknowledgement":
                    raise Crash
                for message in taken:
                    await message.ack()
            return len(taken)
        finally:
            await channel.close()  # unacknowledged messages are requeued

    async def effects(self) -> Counter[str]:
        async with self.engine.begin() as connection:
            return Counter((await connection.execute(text("SELECT id FROM effects"))).scalars())


@pytest.fixture(scope="module")
def world(make_paybus: MakePaybus) -> Iterator[World]:
    with make_paybus() as paybus:
        world = World(paybus.layout.rabbitmq_url, paybus.layout.databases["subscription"])
        yield world
        world.close()


class RelayAndInbox(RuleBasedStateMachine):
    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.committed: list[Event[Any]] = []
        self.world.do(self.world.empty())

    @rule(commit=st.booleans())
    def emit(self, commit: bool) -> None:
        event = _event()
        self.world.do(self.world.emit(event, commit=commit))
        if commit:
            self.committed.append(event)

    @rule(data=st.data())
    def emit_again(self, data: st.DataObject) -> None:
        """A handler that runs twice emits the same event twice."""
        if self.committed:
            event = data.draw(st.sampled_from(self.committed))
            self.world.do(self.world.emit(event, commit=True))

    @rule(crash_after=st.none() | st.integers(1, 4))
    def relay(self, crash_after: int | None) -> None:
        self.world.do(self.world.relay_batch(crash_after=crash_after))

    @rule(full=st.booleans())
    def relay_without_a_broker(self, full: bool) -> None:
        """Relay while the broker is down, or while its queue is full."""
        refused = NotTaken("it is full") if full else Unavailable("the broker is away")
        self.world.do(self.world.relay_batch(refused=refused))

    @rule(
        count=st.integers(1, 5),
        crash=st.sampled_from([None, "before the commit", "before the acknowledgement"]),
    )
    def take_in(self, count: int, crash: str | None) -> None:
        self.world.do(self.world.take_in(count, crash=crash))

    @invariant()
    def no_effect_is_doubled_or_invented(self) -> None:
        effects = self.world.do(self.world.effects())
        assert effects.keys() <= {event.id for event in self.committed}
        assert set(effects.values()) <= {1}

    def teardown(self) -> None:
        """Complete without crashes. Unacknowledged messages need a moment to be requeued."""
        expected = Counter({event.id for event in self.committed})
        until(lambda: self._finish() == expected, what="one effect for each committed event")

    def _finish(self) -> Counter[str]:
        self.world.do(self.world.relay.drain())
        while self.world.do(self.world.take_in(100, crash=None)):
            pass
        return self.world.do(self.world.effects())


def test_every_committed_event_has_one_effect_wherever_processes_die(world: World) -> None:
    RelayAndInbox.world = world
    run_state_machine_as_test(
        RelayAndInbox,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def _event() -> Event[PaymentOutcome]:
    now = datetime.now(UTC)
    name = uuid4().hex
    return Event[PaymentOutcome](
        id=name,
        source="/test",
        type="payment.succeeded",
        subject=name,
        time=now,
        recordedtime=now,
        tenant="default",
        correlationid=name,
        trust="signature",
        data=PaymentOutcome(
            provider="stripe", payment_id=name, customer_id=None, amount=100, currency="EUR"
        ),
    )

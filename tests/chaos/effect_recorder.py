"""A user-defined service whose effects are countable: a second effect is always visible.

Every event adds a row, so no rule about newer reports can hide a duplicate. An event whose id
begins with `evt_killer` kills the process, as a bug in a C library would.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import aio_pika
import sqlalchemy as sa

from common import settings
from common.contracts import topology
from common.contracts.event import Event
from common.contracts.registry import EVENT_TYPES
from common.contracts.retry_ladder import RetryLadder
from common.contracts.topology import Binding, Queue
from common.messaging import tables
from common.messaging.outbox import UnitOfWork
from common.messaging.topology_declarer import declaring
from common.messaging.transactional_consumer import TransactionalConsumer
from common.runtime import wiring
from common.runtime.service import Role, RoleContext, RoleProcess, main

QUEUE = Queue(
    "chaos.effect_recorder", tuple(Binding(exchange, "#") for exchange in topology.DOMAIN_EXCHANGES)
)

effects = sa.Table(
    "effects",
    sa.MetaData(),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("sequence", sa.Integer),
)


def create_tables(url: str) -> None:
    engine = sa.create_engine(url)
    tables.metadata.create_all(engine)
    effects.metadata.create_all(engine)
    engine.dispose()


def declare(rabbitmq_url: str, ladder: RetryLadder) -> None:
    """Declare the ledger's queue, as `topology_declarer.py` declares those of `topology.py`."""
    asyncio.run(_declare(rabbitmq_url, ladder))


async def _declare(rabbitmq_url: str, ladder: RetryLadder) -> None:
    connection = await aio_pika.connect(rabbitmq_url)
    async with connection, connection.channel() as channel:
        await declaring(ladder)(connection, False)  # a gateway with a spool is ready without it
        dead = await channel.declare_queue(
            QUEUE.dead, durable=True, arguments=topology.dead_queue_arguments()
        )
        await dead.bind(topology.DEAD_LETTER_EXCHANGE, QUEUE.name)
        queue = await channel.declare_queue(
            QUEUE.name, durable=True, arguments=topology.queue_arguments(QUEUE)
        )
        for binding in QUEUE.bindings:
            await queue.bind(binding.exchange, binding.pattern)


async def on_event(work: UnitOfWork, event: Event[Any]) -> None:
    if event.id.startswith("evt_killer"):
        os.kill(os.getpid(), signal.SIGKILL)
    row = {name: getattr(event, name) for name in effects.columns.keys()}  # noqa: SIM118
    await work.session.execute(sa.insert(effects).values(row))


async def worker(loaded: settings.WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(loaded, context)
    messaging = await wiring.messaging(loaded, context, "ledger-worker")
    consuming = await wiring.consuming(loaded, context, messaging, "ledger-worker consumers")
    consumer = TransactionalConsumer(
        QUEUE,
        dict.fromkeys(EVENT_TYPES, on_event),
        **wiring.consumer_options(messaging, consuming, engine, source="/ledger"),
    )
    return wiring.worker("Chaos ledger worker", loaded, messaging, engine, [consumer])


if __name__ == "__main__":
    main("ledger", {"worker": Role(settings.WorkerSettings, worker)})

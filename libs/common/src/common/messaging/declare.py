"""Declares the topology. Idempotent: every process does it whenever it connects."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Sequence

from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from common.contracts import topology
from common.contracts.topology import (
    DEAD_LETTER_EXCHANGE,
    DOMAIN_EXCHANGES,
    JOURNAL,
    REPLAYS,
    Queue,
)
from common.logs import get_logger
from common.messaging import refill
from common.messaging.connection import OnConnect
from common.messaging.retry import Ladder

log = get_logger(__name__)


class TopologyMismatch(ConnectionError):
    """The broker has a queue or exchange of ours with other properties."""


def declaring(ladder: Ladder) -> OnConnect:
    """For `Broker(on_connect=...)`; one for all connections of a process."""
    one_at_a_time = asyncio.Lock()  # or two would see the same queue missing

    async def declare(connection: AbstractConnection) -> None:
        async with one_at_a_time:
            await _declare(connection, ladder)

    return declare


async def _declare(connection: AbstractConnection, ladder: Ladder) -> None:
    async with connection.channel(publisher_confirms=False) as channel:
        try:
            lost = await _lost_queues(connection, ladder)
            await _declare_waits(channel, ladder)
            await _order_refills(connection, ladder, lost)
            await _declare_all(channel, lost)
        except ChannelPreconditionFailed as error:
            raise TopologyMismatch(
                f"RabbitMQ refuses a declaration ({error}). It was declared with other "
                "properties by another version: drain and delete that queue, then restart."
            ) from error
    for stream, declare in ((JOURNAL, _declare_journal), (REPLAYS, _declare_replays)):
        async with connection.channel(publisher_confirms=False) as channel:
            try:
                await declare(channel)
            except ChannelNotFoundEntity as error:
                # Queues are confirmed without it, so payments go on; only the record has a gap.
                # Seen on 3.10 when a node is killed within a second of its first stream's creation.
                log.error(
                    "a stream is down: what is published is delivered but not recorded. Repair it "
                    f"with `rabbitmq-streams restart_stream {stream}`, or delete it",
                    error=str(error),
                )


async def _declare_waits(channel: AbstractChannel, ladder: Ladder) -> None:
    for rung in ladder.rungs:
        retry = await channel.declare_exchange(rung.queue, ExchangeType.FANOUT, durable=True)
        waiting = await channel.declare_queue(
            rung.queue, durable=True, arguments=topology.retry_queue_arguments(rung.seconds)
        )
        await waiting.bind(retry)


async def _lost_queues(connection: AbstractConnection, ladder: Ladder) -> Sequence[Queue]:
    """Those that have lost messages, because they or a retry queue were deleted.

    It is looked for before anything is declared: afterwards nobody could tell.
    """
    if not await _exists(connection, JOURNAL):
        return ()  # a new broker, or one that has nothing to refill from
    for rung in ladder.rungs:
        gone = not await _exists(connection, rung.queue)
        if gone and await _has_exchange(connection, rung.queue):  # or it is a new wait
            log.error("a retry queue is gone; refilling from the journal", queue=rung.queue)
            return topology.QUEUES
    return [queue for queue in topology.QUEUES if not await _exists(connection, queue.name)]


async def _order_refills(
    connection: AbstractConnection, ladder: Ladder, lost: Sequence[Queue]
) -> None:
    """The order waits on the ladder while the queue is declared, and then finds it there."""
    for queue in lost:
        log.error("a queue lost messages; refilling it from the journal", queue=queue.name)
        async with connection.channel() as channel:
            exchange = await channel.get_exchange(refill.rung(ladder).queue, ensure=False)
            order = Message(b"", headers=refill.order(), delivery_mode=DeliveryMode.PERSISTENT)
            await exchange.publish(order, routing_key=queue.name)


async def _exists(connection: AbstractConnection, queue: str) -> bool:
    try:
        async with connection.channel(publisher_confirms=False) as channel:
            await channel.declare_queue(queue, passive=True)
    except ChannelNotFoundEntity as error:
        # The same code stands for a queue that is there and down, which has not been deleted.
        return "no queue" not in str(error)
    return True


async def _has_exchange(connection: AbstractConnection, name: str) -> bool:
    try:
        async with connection.channel(publisher_confirms=False) as channel:
            await channel.declare_exchange(name, passive=True)
    except ChannelNotFoundEntity:
        return False
    return True


async def _declare_all(channel: AbstractChannel, lost: Container[Queue]) -> None:
    dead = await channel.declare_exchange(DEAD_LETTER_EXCHANGE, ExchangeType.DIRECT, durable=True)
    exchanges = {
        name: await channel.declare_exchange(name, ExchangeType.TOPIC, durable=True)
        for name in DOMAIN_EXCHANGES
    }
    # Lost ones first: an order that comes back before its queue waits for minutes in the broker.
    for queue in sorted(topology.QUEUES, key=lambda queue: queue not in lost):
        declared = await channel.declare_queue(
            queue.name, durable=True, arguments=topology.queue_arguments(queue)
        )
        for binding in queue.bindings:
            await declared.bind(exchanges[binding.exchange], binding.pattern)
        for name, binding in topology.RETIRED_BINDINGS:
            if name == queue.name:
                await declared.unbind(exchanges[binding.exchange], binding.pattern)
    for queue in (*topology.QUEUES, topology.WEBHOOKS):
        dead_queue = await channel.declare_queue(
            queue.dead, durable=True, arguments=topology.dead_queue_arguments()
        )
        await dead_queue.bind(dead, queue.name)


async def _declare_journal(channel: AbstractChannel) -> None:
    journal = await channel.declare_queue(
        JOURNAL, durable=True, arguments=topology.journal_arguments()
    )
    for exchange in DOMAIN_EXCHANGES:
        await journal.bind(exchange, "#")


async def _declare_replays(channel: AbstractChannel) -> None:
    exchange = await channel.declare_exchange(REPLAYS, ExchangeType.DIRECT, durable=True)
    stream = await channel.declare_queue(
        REPLAYS, durable=True, arguments=topology.replays_arguments()
    )
    for queue in topology.QUEUES:
        await stream.bind(exchange, queue.name)
        replayed = await channel.get_queue(queue.name, ensure=False)
        await replayed.bind(exchange, queue.name)

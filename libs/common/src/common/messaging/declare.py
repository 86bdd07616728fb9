"""Declares the topology. Idempotent: every process does it whenever it connects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from common.contracts import topology
from common.contracts.topology import DEAD_LETTER_EXCHANGE, DOMAIN_EXCHANGES, JOURNAL
from common.logs import get_logger
from common.messaging.retry import Ladder

log = get_logger(__name__)


class TopologyMismatch(ConnectionError):
    """The broker has a queue or exchange of ours with other properties."""


def declaring(ladder: Ladder) -> Callable[[AbstractConnection], Awaitable[None]]:
    """For `Broker(on_connect=...)`."""

    async def declare(connection: AbstractConnection) -> None:
        async with connection.channel(publisher_confirms=False) as channel:
            try:
                await _declare_all(channel, ladder)
            except ChannelPreconditionFailed as error:
                raise TopologyMismatch(
                    f"RabbitMQ refuses a declaration ({error}). It was declared with other "
                    "properties by another version: drain and delete that queue, then restart."
                ) from error
        async with connection.channel(publisher_confirms=False) as channel:
            try:
                await _declare_journal(channel)
            except ChannelNotFoundEntity as error:
                # Queues are confirmed without it, so payments go on; only the record has a gap.
                # Seen on 3.10 when a node is killed within a second of its first stream's creation.
                log.error(
                    "the journal stream is down: events are delivered but not recorded. Repair it "
                    "with `rabbitmq-streams restart_stream journal`, or delete it",
                    error=str(error),
                )

    return declare


async def _declare_all(channel: AbstractChannel, ladder: Ladder) -> None:
    dead = await channel.declare_exchange(DEAD_LETTER_EXCHANGE, ExchangeType.DIRECT, durable=True)
    exchanges = {
        name: await channel.declare_exchange(name, ExchangeType.TOPIC, durable=True)
        for name in DOMAIN_EXCHANGES
    }
    for rung in ladder.rungs:
        retry = await channel.declare_exchange(rung.queue, ExchangeType.FANOUT, durable=True)
        waiting = await channel.declare_queue(
            rung.queue, durable=True, arguments=topology.retry_queue_arguments(rung.seconds)
        )
        await waiting.bind(retry)
    for queue in (*topology.QUEUES, topology.WEBHOOKS):
        dead_queue = await channel.declare_queue(
            queue.dead, durable=True, arguments=topology.dead_queue_arguments()
        )
        await dead_queue.bind(dead, queue.name)
    for queue in topology.QUEUES:
        declared = await channel.declare_queue(
            queue.name, durable=True, arguments=topology.queue_arguments(queue)
        )
        for binding in queue.bindings:
            await declared.bind(exchanges[binding.exchange], binding.pattern)


async def _declare_journal(channel: AbstractChannel) -> None:
    journal = await channel.declare_queue(
        JOURNAL, durable=True, arguments=topology.journal_arguments()
    )
    for exchange in DOMAIN_EXCHANGES:
        await journal.bind(exchange, "#")

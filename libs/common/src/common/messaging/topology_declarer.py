"""Declaration of the topology. Idempotent: every process ensures it whenever it connects.

Hundreds of processes may connect at once to a distant broker. So each first checks whether
everything exists, and one at a time declares what is missing. Neither waits for responses one after
the other: several channels have one request each in flight.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from common.contracts import topology
from common.contracts.retry_ladder import RetryDelay, RetryLadder
from common.contracts.topology import (
    DEAD_LETTER_EXCHANGE,
    DECLARED,
    DOMAIN_EXCHANGES,
    GIVEN_UP,
    JOBS,
    JOURNAL,
    MARKS,
    REFILLS,
    REPLAYS,
    Queue,
)
from common.messaging import queue_recovery
from common.messaging.connection import OnConnect
from common.observability.logging import get_logger

log = get_logger(__name__)

_CHANNELS: Final = 16
_DECLARER: Final = "paybus.declaring"
_MARK_SECONDS = 3600
_LOOK_AGAIN_SECONDS = (0.5, 3.0)
# A process's two connections are lost and re-established together.
_SEEN_SECONDS = 5.0

Job = Callable[[AbstractChannel], Awaitable[Any]]


class TopologyMismatch(ConnectionError):
    """The broker has a queue or exchange of ours with other properties."""


class TopologyMissing(ConnectionError):
    """A queue or exchange is missing, and this login may not declare it."""


def declaring(ladder: RetryLadder) -> OnConnect:
    """Return the `on_connect` of `BrokerConnection`; one for all connections of a process."""
    one_at_a_time = asyncio.Lock()
    seen = -_SEEN_SECONDS

    async def see_to_it(connection: AbstractConnection, missing: bool = False) -> None:
        nonlocal seen
        async with one_at_a_time:
            if not missing and time.monotonic() - seen < _SEEN_SECONDS:
                return
            while missing or not await _is_whole(connection, ladder):
                try:
                    async with _alone(connection) as alone:
                        if alone:
                            await _declare(connection, ladder)
                            break
                except ChannelAccessRefused as error:
                    # A login limited to its own service: operations' worker declares.
                    await _check_there(connection, ladder, error, whole=missing)
                    break
                # Another process declares it; the random delay spreads the next checks.
                await asyncio.sleep(random.uniform(*_LOOK_AGAIN_SECONDS))  # noqa: S311
                missing = False
            seen = time.monotonic()

    return see_to_it


async def _is_whole(connection: AbstractConnection, ladder: RetryLadder) -> bool:
    """Return whether a process recently declared this topology, no other one was declared since,
    and everything still exists."""
    (marked,) = await _ask(connection, [partial(_is_empty, _mark(ladder))])
    if not marked:
        return False
    return not await _missing(connection, ladder)


async def _check_there(
    connection: AbstractConnection,
    ladder: RetryLadder,
    refused: ChannelAccessRefused,
    *,
    whole: bool,
) -> None:
    """Check the topology for a login that may not declare it.

    Raise `TopologyMissing`, also while only another version's topology is declared: without this
    version's bindings an event goes to the journal and to no queue. `whole` is for a caller that
    found something missing: then also raise it while another process is still declaring.
    """
    mark = _lasting_mark(ladder)
    there = _is_empty if whole else _has_queue
    (declared,) = await _ask(connection, [partial(there, mark)])
    if missing := [*await _missing(connection, ladder), *([] if declared else [mark])]:
        raise TopologyMissing(
            f"the broker has no {missing[0]!r}, and this login may not declare it: start "
            "the worker of operations, whose login may"
        ) from refused


async def _missing(connection: AbstractConnection, ladder: RetryLadder) -> Sequence[str]:
    """Return the names of missing exchanges, and of missing queues that could lose messages.

    From 4.2.6 on, RabbitMQ refuses to say whether a queue or exchange exists for which the login
    has no permission; it counts as existing here. https://github.com/rabbitmq/rabbitmq-server/pull/16272
    """
    queues = [rung.queue for rung in ladder.rungs] + [each.name for each in topology.QUEUES]
    exchanges = [rung.exchange for rung in ladder.rungs]
    exchanges += [*DOMAIN_EXCHANGES, JOBS, DEAD_LETTER_EXCHANGE, GIVEN_UP, MARKS, REFILLS, REPLAYS]
    found = await _ask(
        connection,
        [
            *(partial(_has_queue, each) for each in queues),
            *(partial(_has_exchange, each) for each in exchanges),
        ],
    )
    names = zip([*queues, *exchanges], found, strict=True)
    return [name for name, there in names if not there]


def _mark(ladder: RetryLadder) -> str:
    """Return the name of the expiring mark, a queue that is declared last; it changes every hour.

    Another topology has another name. A removed binding is otherwise not detected, because the
    journal still receives every event; so everything is declared once an hour if a process
    connects.
    """
    return f"{_lasting_mark(ladder)}.{int(time.time() // _MARK_SECONDS)}"


def _lasting_mark(ladder: RetryLadder) -> str:
    """Return the name of the lasting mark: this topology was declared at any time."""
    described = repr(
        (
            [(rung.exchange, rung.queue, rung.seconds) for rung in ladder.rungs],
            topology.retry_queue_arguments(1),
            (GIVEN_UP, JOBS, MARKS, REFILLS),
            DOMAIN_EXCHANGES,
            [(each, topology.queue_arguments(each)) for each in topology.QUEUES],
            topology.dead_queue_arguments(),
            topology.RETIRED_BINDINGS,
            topology.journal_arguments(),
            topology.replays_arguments(),
        )
    )
    digest = hashlib.sha256(described.encode()).hexdigest()[:16]
    return f"{DECLARED}.{digest}"


@asynccontextmanager
async def _alone(connection: AbstractConnection) -> AsyncIterator[bool]:
    """Yield whether no other connection declares meanwhile: an exclusive queue belongs to one
    connection."""
    channel = connection.channel(publisher_confirms=False)
    await channel.initialize()
    try:
        lock = await channel.declare_queue(_DECLARER, exclusive=True, auto_delete=True)
    except ChannelLockedResource:
        yield False
        return
    try:
        yield True
    finally:
        if not channel.is_closed:
            await lock.delete()
            await channel.close()


async def _declare(connection: AbstractConnection, ladder: RetryLadder) -> None:
    # A message in a mark voids it, whichever version's it is: after a rollback the older version
    # declares, too.
    await _ask(connection, [partial(_declare_exchange, DECLARED, ExchangeType.FANOUT)])
    await _ask(connection, [_void_marks])
    try:
        lost = await _lost_queues(connection, ladder)
        waits = [partial(_declare_wait, rung) for rung in ladder.rungs]
        await _ask(connection, waits)
        for queue in lost:
            await _order_refill(connection, ladder, queue)
        await _declare_all(connection, lost)
    except ChannelPreconditionFailed as error:
        raise TopologyMismatch(
            f"RabbitMQ refuses a declaration ({error}). It was declared with other "
            "properties by another version: drain and delete that queue, then restart."
        ) from error
    for stream, declare in ((JOURNAL, _declare_journal), (REPLAYS, _declare_replays)):
        try:
            await declare(connection)
        except ChannelNotFoundEntity as error:
            # Queues confirm without the stream, so payments continue; only the record has a gap.
            # Seen on 3.10 when a node is killed within a second of its first stream's creation.
            log.error(
                "stream_unavailable",
                hint="messages are delivered but not recorded: repair it with "
                f"`rabbitmq-streams restart_stream {stream}`, or delete it",
                error=str(error),
            )
            return  # without the mark: the next process to connect tries again
    try:
        lasting = partial(_set_mark, _lasting_mark(ladder), {})
        expiring = partial(_set_mark, _mark(ladder), {"x-expires": 2 * _MARK_SECONDS * 1000})
        await _ask(connection, [lasting, expiring])
    except ChannelNotFoundEntity as error:
        log.warning("topology_mark_failed", error=str(error))


async def _lost_queues(connection: AbstractConnection, ladder: RetryLadder) -> Sequence[Queue]:
    """Return the queues that lost messages because they or a retry queue were deleted.

    Call it before anything is declared: afterwards the loss can't be detected.
    """
    (has_journal,) = await _ask(connection, [partial(_has_queue, JOURNAL)])
    if not has_journal:
        return ()  # a new broker, or one without a journal to refill from
    waits = [rung.queue for rung in ladder.rungs]
    names = [*waits, *(each.name for each in topology.QUEUES)]
    questions = [partial(_has_queue, each) for each in names]
    exchanges = [partial(_has_exchange, rung.exchange) for rung in ladder.rungs]
    found = await _ask(connection, [*questions, *exchanges])
    there = dict(zip(names, found, strict=False))
    for name, had in zip(waits, found[len(names) :], strict=True):
        if had and not there[name]:  # without its exchange it is a new delay
            log.error("retry_queue_lost_recovering", queue=name)
            return topology.QUEUES
    return [queue for queue in topology.QUEUES if not there[queue.name]]


async def _order_refill(connection: AbstractConnection, ladder: RetryLadder, queue: Queue) -> None:
    """Publish a refill request; it waits on the ladder until the queue is declared."""
    log.error("queue_lost_messages_recovering", queue=queue.name)
    async with connection.channel() as channel:
        exchange = await channel.get_exchange(
            queue_recovery.recovery_delay(ladder).exchange, ensure=False
        )
        order = Message(
            b"", headers=queue_recovery.recovery_headers(), delivery_mode=DeliveryMode.PERSISTENT
        )
        await exchange.publish(order, routing_key=queue.name)


async def _declare_all(connection: AbstractConnection, lost: Container[Queue]) -> None:
    every_topic = (*DOMAIN_EXCHANGES, JOBS, GIVEN_UP, MARKS, REFILLS)
    topics = [partial(_declare_exchange, each, ExchangeType.TOPIC) for each in every_topic]
    dead = partial(_declare_exchange, DEAD_LETTER_EXCHANGE, ExchangeType.DIRECT)
    await _ask(connection, [dead, *topics])
    # Lost queues first: a refill request that returns before its queue exists waits for minutes in
    # the broker.
    for first in (True, False):
        some = [each for each in topology.QUEUES if (each in lost) is first]
        await _ask(connection, [partial(_declare_queue, each) for each in some])
    every = (*topology.QUEUES, topology.WEBHOOKS)
    await _ask(connection, [partial(_declare_dead, each) for each in every])


async def _declare_journal(connection: AbstractConnection) -> None:
    arguments = topology.journal_arguments()
    await _ask(connection, [partial(_declare_stream, JOURNAL, arguments)])
    await _ask(connection, [partial(_bind, JOURNAL, each, "#") for each in DOMAIN_EXCHANGES])
    await _ask(connection, [partial(_bind, JOURNAL, MARKS, JOURNAL)])


async def _declare_replays(connection: AbstractConnection) -> None:
    arguments = topology.replays_arguments()
    await _ask(connection, [partial(_declare_exchange, REPLAYS, ExchangeType.DIRECT)])
    await _ask(connection, [partial(_declare_stream, REPLAYS, arguments)])
    await _ask(connection, [partial(_bind, REPLAYS, MARKS, REPLAYS)])
    names = [each.name for each in topology.QUEUES]
    await _ask(connection, [partial(_bind, REPLAYS, REPLAYS, name) for name in names])
    await _ask(connection, [partial(_bind, name, REPLAYS, name) for name in names])


# -- jobs of one channel ---------------------------------------------------------------------------


async def _has_queue(queue: str, channel: AbstractChannel) -> bool:
    try:
        await channel.declare_queue(queue, passive=True)
    except ChannelNotFoundEntity as error:
        # The broker uses the same code for a queue that exists but is down, which was not deleted.
        return "no queue" not in str(error)
    except ChannelAccessRefused:
        return True
    return True


async def _is_empty(queue: str, channel: AbstractChannel) -> bool:
    try:
        found = await channel.declare_queue(queue, passive=True)
    except ChannelNotFoundEntity:
        return False
    return found.declaration_result.message_count == 0


async def _void_marks(channel: AbstractChannel) -> None:
    marks = await channel.get_exchange(DECLARED, ensure=False)
    await marks.publish(Message(b""), routing_key="", mandatory=False)


async def _set_mark(name: str, more: Mapping[str, Any], channel: AbstractChannel) -> None:
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",  # available even while a node is down
        "x-max-length": 1,
        **more,
    }
    mark = await channel.declare_queue(name, durable=True, arguments=arguments)
    await mark.bind(DECLARED)
    await mark.purge()


async def _has_exchange(name: str, channel: AbstractChannel) -> bool:
    try:
        await channel.declare_exchange(name, passive=True)
    except ChannelNotFoundEntity:
        return False
    except ChannelAccessRefused:
        return True
    return True


async def _declare_exchange(name: str, type_: ExchangeType, channel: AbstractChannel) -> None:
    await channel.declare_exchange(name, type_, durable=True)


async def _declare_stream(
    name: str, arguments: Mapping[str, Any], channel: AbstractChannel
) -> None:
    await channel.declare_queue(name, durable=True, arguments=dict(arguments))


async def _declare_wait(rung: RetryDelay, channel: AbstractChannel) -> None:
    await channel.declare_exchange(rung.exchange, ExchangeType.TOPIC, durable=True)
    arguments = topology.retry_queue_arguments(rung.seconds)
    waiting = await channel.declare_queue(rung.queue, durable=True, arguments=arguments)
    await waiting.bind(rung.exchange, "#")


async def _declare_queue(queue: Queue, channel: AbstractChannel) -> None:
    declared = await channel.declare_queue(
        queue.name, durable=True, arguments=topology.queue_arguments(queue)
    )
    for binding in queue.bindings:
        await declared.bind(binding.exchange, binding.pattern)
    await declared.bind(REFILLS, queue.name)
    for name, binding in topology.RETIRED_BINDINGS:
        if name == queue.name:
            await declared.unbind(binding.exchange, binding.pattern)


async def _declare_dead(queue: Queue, channel: AbstractChannel) -> None:
    dead = await channel.declare_queue(
        queue.dead, durable=True, arguments=topology.dead_queue_arguments()
    )
    for exchange in (DEAD_LETTER_EXCHANGE, GIVEN_UP):
        await dead.bind(exchange, queue.name)


async def _bind(queue: str, exchange: str, key: str, channel: AbstractChannel) -> None:
    await (await channel.get_queue(queue, ensure=False)).bind(exchange, key)


async def _ask(connection: AbstractConnection, jobs: Sequence[Job]) -> list[Any]:
    """Run all jobs, in any order; return the result of each. Raise the error of one."""
    said: list[Any] = [None] * len(jobs)
    waiting = iter(enumerate(jobs))

    async def work() -> None:
        channel: AbstractChannel | None = None
        for number, job in waiting:
            if channel is None or channel.is_closed:  # a negative result closes it
                channel = connection.channel(publisher_confirms=False)
                await channel.initialize()
            said[number] = await job(channel)
        if channel is not None and not channel.is_closed:
            await channel.close()

    workers = [asyncio.create_task(work()) for _ in range(min(_CHANNELS, len(jobs)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return said

"""Each figure: what runs meanwhile, what is counted, in which unit."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Coroutine, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar, cast

import aiormq
import psycopg
import uvloop

from benchmarks import load
from benchmarks.load import Load, percentile
from benchmarks.sides import Paybus, Peer, Side, resident_bytes, wait
from common.contracts.topology import Queue, queue_arguments
from devstack.processes.stack import Stack

_NAMES = load.numbers()
_CONNECTIONS = 16

ValueT = TypeVar("ValueT")


def names(count: int) -> list[str]:
    return list(islice(_NAMES, count))


def ingest(port: int, path: str, *, seconds: float, prepared: int) -> Load:
    """Requests answered in `seconds`, each connection sending its next when one was answered."""
    made = load.requests(names(prepared), port, path)
    return _run(load.as_fast_as_possible(port, made, connections=_CONNECTIONS, seconds=seconds))


def paybus_effects(paybus: Paybus, events: int) -> float:
    """Events a second that one worker takes in, from its first effect on, the relay running."""
    paybus.fill(names(events))
    before = paybus.taken_in()
    with paybus.process("subscription-worker"):
        return _drained(paybus, events, before)


def celery_effects(peer: Peer, events: int) -> float:
    with peer.web():
        made = load.requests(names(events), peer.port, "/webhooks/stripe")
        _run(load.at_rate(peer.port, made, rate=1e6, connections=_CONNECTIONS))
    before = peer.taken_in()
    with peer.worker():
        return _drained(peer, events, before)


def end_to_end(side: Paybus | Peer, *, rate: float, seconds: float) -> list[float]:
    """Seconds from the sending of each webhook to the commit of its subscription."""
    made = load.requests(names(round(rate * seconds)), side.port, "/webhooks/stripe")
    before = side.taken_in()
    sent = _run(load.at_rate(side.port, made, rate=rate, connections=_CONNECTIONS)).sent
    side.wait_taken_in(len(sent), since=before)
    return _until_committed(side, sent)


def provisioned(paybus: Paybus, *, rate: float, seconds: float) -> list[float]:
    """Seconds from the sending of each webhook to the commit of its organization's result."""
    made = load.requests(names(round(rate * seconds)), paybus.port, "/webhooks/stripe")
    sent = _run(load.at_rate(paybus.port, made, rate=rate, connections=_CONNECTIONS)).sent
    wait(lambda: sent.keys() <= paybus.provisioned_times().keys(), what="all are provisioned")
    done = paybus.provisioned_times()
    return [done[name] - at for name, at in sent.items()]


def relay(paybus: Paybus, rows: int) -> float:
    """Outbox rows a second that a worker, just started, publishes, has confirmed and removes."""
    paybus.fill_outbox(rows)
    with paybus.process("subscription-worker"):
        wait(lambda: paybus.outbox_rows() < rows, what="the relay begins")
        left, started = paybus.outbox_rows(), time.perf_counter()
        paybus.wait_relayed()
        return left / (time.perf_counter() - started)


def small_backlog(paybus: Paybus, *, bursts: int) -> float:
    """Events a second while never more than 1,000 wait: the worker is frozen while they arrive.

    A burst is done when its outbox rows have left too: with a large backlog the relay's work goes
    on beside the rest, and here it would otherwise be done in the pauses.
    """
    seconds = 0.0
    with paybus.process("subscription-worker") as worker:
        for _ in range(bursts):
            burst = names(1000)
            before = paybus.taken_in()
            os.kill(worker.pid, signal.SIGSTOP)
            paybus.publish(burst)
            os.kill(worker.pid, signal.SIGCONT)
            started = time.perf_counter()
            paybus.wait_taken_in(len(burst), since=before)
            paybus.wait_relayed()
            seconds += time.perf_counter() - started
    return bursts * 1000 / seconds


def large_backlog(paybus: Paybus, events: int) -> tuple[float, float]:
    """Events a second over the first fifth of the backlog, and how the worker's memory grew: after
    all of them against after 10,000."""
    paybus.fill(names(events))
    before = paybus.taken_in()
    with paybus.process("subscription-worker") as worker:
        paybus.wait_taken_in(2_000, since=before)
        first, started = paybus.taken_in(), time.perf_counter()
        paybus.wait_taken_in(10_000, since=before)
        memory = resident_bytes(worker)
        paybus.wait_taken_in(events // 5, since=before)
        took = time.perf_counter() - started
        taken = (paybus.taken_in() - first) / paybus.rows_per_event
        paybus.wait_taken_in(events, since=before)
        return taken / took, resident_bytes(worker) / memory


def sustained(paybus: Paybus, *, rate: float, seconds: float) -> tuple[list[float], float]:
    """Seconds from each webhook to its active subscription, and until the last one was done and
    told."""
    made = load.requests(names(round(rate * seconds)), paybus.port, "/webhooks/stripe")
    before = paybus.taken_in()
    sent = _run(load.at_rate(paybus.port, made, rate=rate, connections=_CONNECTIONS)).sent
    ended = time.perf_counter()
    paybus.wait_taken_in(len(sent), since=before)
    paybus.wait_relayed()
    behind = time.perf_counter() - ended
    return _until_committed(paybus, sent), behind


def confirmed_publishes(stack: Stack, *, seconds: float) -> float:
    """Persistent publishes to a quorum queue that one connection has confirmed a second, 256 at a
    time under way."""
    return _run(_confirmed_publishes(stack.virtual_host("bench_limit"), seconds))


async def _confirmed_publishes(url: str, seconds: float) -> float:
    connection = await aiormq.connect(url)
    channel = cast(aiormq.Channel, await connection.channel(publisher_confirms=True))
    queue = Queue("bench.limit")
    await channel.queue_declare(queue.name, durable=True, arguments=queue_arguments(queue))
    properties = aiormq.spec.Basic.Properties(delivery_mode=2)
    started = time.perf_counter()
    count = 0

    async def publish() -> None:
        nonlocal count
        while time.perf_counter() - started < seconds:
            await channel.basic_publish(
                b"x" * 800, routing_key=queue.name, properties=properties, wait=False
            )
            count += 1

    await asyncio.gather(*(publish() for _ in range(256)))
    took = time.perf_counter() - started
    await channel.queue_delete(queue.name)
    await connection.close()
    return count / took


def commits(stack: Stack, *, seconds: float) -> float:
    """Transactions of one inserted row that four connections commit a second, as pgbench does."""
    return _run(_commits(stack.database("bench_limit").replace("+psycopg", ""), seconds))


async def _commits(url: str, seconds: float) -> float:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS commits (id bigserial, body text)")
    started = time.perf_counter()
    count = 0

    async def insert() -> None:
        nonlocal count
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            while time.perf_counter() - started < seconds:
                await connection.execute("INSERT INTO commits (body) VALUES (%s)", ["x" * 200])
                count += 1

    await asyncio.gather(*(insert() for _ in range(4)))
    return count / (time.perf_counter() - started)


def milliseconds(seconds: Sequence[float], percent: int) -> float:
    return percentile(list(seconds), percent) * 1000


def _until_committed(side: Side, sent: Mapping[str, float]) -> list[float]:
    # The last batch's rows are counted before they can be seen.
    wait(lambda: sent.keys() <= side.commit_times().keys(), what="all are committed")
    committed = side.commit_times()
    return [committed[name] - at for name, at in sent.items()]


def _drained(side: Side, events: int, before: int) -> float:
    wait(lambda: side.taken_in() > before, what=f"{side.name}'s worker begins", seconds=120)
    first, started = side.taken_in(), time.perf_counter()
    side.wait_taken_in(events, since=before)
    return (side.taken_in() - first) / side.rows_per_event / (time.perf_counter() - started)


def _run(work: Coroutine[Any, Any, ValueT]) -> ValueT:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)

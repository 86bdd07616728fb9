"""The scenarios: the faults injected while webhooks flow."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from chaos.environment import OTHERS, WORKERS, Field
from chaos.load import Plan
from devstack.addresses import DevstackError
from support import previous_version
from support.proxy import Line, Proxy
from support.waiting import trouble_lasts

Disturb = Callable[[Field], None]


@dataclass(frozen=True)
class Scenario:
    """A scenario. `disturb` runs while the load flows, and ends with everything working again."""

    name: str
    what: str
    disturb: Disturb
    copies: int = 1
    poison_every: int = 0
    killer: bool = False
    replicas: int = 2
    cluster: bool = False
    pair: bool = False  # of PostgreSQL servers
    proxied: Sequence[str] = ()
    spool: bool = False
    smooth: bool = False  # no webhook may fail
    at_most: int = 0  # webhooks: the load ends with the disturbance
    upgrade: bool = False  # begins with the previous version

    def plan(self, webhooks: int) -> Plan:
        if self.at_most:
            return Plan(self.at_most, open_ended=True)
        return Plan(webhooks, self.copies, self.poison_every, self.killer)


def nothing(field: Field) -> None:
    """Inject no fault: the load itself is the disturbance."""


def kill_processes(field: Field) -> None:
    while field.flowing:
        trouble_lasts(1)
        field.kill_one("webhook-gateway", *WORKERS)


def twice(act: Disturb) -> Disturb:
    """Disturb after a fifth of the load was accepted, and again after three fifths."""

    def disturb(field: Field) -> None:
        for share in (0.2, 0.6):
            field.wait_for_share(share)
            act(field)

    return disturb


def restart_broker(field: Field) -> None:
    field.ground.node.kill()
    field.ground.node.start()


def spool(field: Field) -> None:
    """The broker is down for 30 s, and gateways are killed meanwhile."""
    field.wait_for_share(0.2)
    field.ground.node.kill()
    for _ in range(2):
        trouble_lasts(10)
        field.kill_one("webhook-gateway")
    trouble_lasts(10)
    field.ground.node.start()


def memory_alarm(field: Field) -> None:
    field.ground.node.control("set_vm_memory_high_watermark", "absolute", "1")
    trouble_lasts(5)
    field.ground.node.control("set_vm_memory_high_watermark", "0.6")


def kill_queue_leader(field: Field) -> None:
    """Kill a queue leader, then start it again: two of three nodes must always agree."""
    assert field.cluster is not None
    virtual_host = field.layout.rabbitmq_url.rpartition("/")[2]
    leader = field.cluster.leader(virtual_host, "subscription.billing")
    leader.kill()
    trouble_lasts(3)
    leader.start()


def delete_queues(field: Field) -> None:
    """Delete a consumed queue, the queue of another service, and a retry queue."""
    names = ("subscription.billing", "provisioning.subscriptions", "retry.1s")
    for share, name in zip((0.2, 0.4, 0.6), names, strict=True):
        field.wait_for_share(share)
        field.delete_queue(name)
        field.kill_one("subscription-worker")  # it declares the topology when it restarts


def restart_postgres(field: Field) -> None:
    field.ground.database.stop_at_once()
    trouble_lasts(2)
    field.ground.database.start()


def fail_over(field: Field) -> None:
    assert field.pair is not None
    field.pair.fail_over(after=3)


def partition_minority(field: Field) -> None:
    """Isolate the node that clients are connected to; the others do not respond to it."""
    assert field.cluster is not None
    field.wait_for_share(0.2)
    field.cluster.partition(Line.SILENT, [1], [2, 3])
    trouble_lasts(30)
    field.cluster.heal()


def partition_majority(field: Field) -> None:
    """Isolate every node, so that no side has a majority."""
    assert field.cluster is not None
    field.wait_for_share(0.2)
    field.cluster.partition(Line.CUT, [1], [2], [3])
    trouble_lasts(20)
    field.cluster.heal()


def drop_connections(field: Field) -> None:
    while field.flowing:
        trouble_lasts(1)
        field.ground.database.drop_connections(field.database_like)


def hang_statements(field: Field) -> None:
    """Hold a lock too long, then freeze server processes in the middle of their work."""
    field.wait_for_share(0.1)
    field.lock_table("subscription", "subscriptions", 15)
    field.wait_for_share(0.5)
    backends = field.ground.database.backends(field.database_like)
    frozen = field.dice.sample(backends, min(6, len(backends)))
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    trouble_lasts(40)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)


def disturb_line(which: Callable[[Field], Proxy], line: Line, seconds: float, field: Field) -> None:
    which(field).line(line)
    trouble_lasts(seconds)
    which(field).line(Line.GOOD)


def scale(field: Field) -> None:
    for share, replicas in ((0.1, 2), (0.2, 8), (0.5, 1), (0.7, 8), (0.9, 2)):
        field.wait_for_share(share)
        for worker in WORKERS:
            field.scale(worker, replicas)


def roll_out(field: Field) -> None:
    """Replace every process as a Deployment does: a new one becomes ready, an old one stops."""
    field.wait_for_share(0.02)
    for name in ("webhook-gateway", *WORKERS, *OTHERS):
        field.replace(name)
    if not field.flowing:
        raise DevstackError("the load ended before all were replaced: this machine is too busy")
    field.end_load()


def upgrade(field: Field) -> None:
    """From the previous version to this one, back, and to this one for good; the database stays
    migrated. In between, processes of both versions run side by side."""
    field.wait_for_share(0.02)
    field.use_version(sys.executable)
    field.migrate()
    for python in (sys.executable, previous_version.python(), sys.executable):
        field.use_version(python)
        for name in ("webhook-gateway", "subscription-worker", "provisioning-worker", *OTHERS):
            field.replace(name)
    if not field.flowing:
        raise DevstackError("the load ended before all were replaced: this machine is too busy")
    field.end_load()


def _network(name: str, which: Callable[[Field], Proxy]) -> list[Scenario]:
    def make(line: Line, seconds: float, what: str) -> Scenario:
        return Scenario(
            f"{name}-{line.value}",
            f"the network between workers and {name} {what}",
            twice(partial(disturb_line, which, line, seconds)),
            proxied=(name,),
        )

    return [
        make(Line.CUT, 5, "is cut for 5 s, twice"),
        make(Line.SILENT, 40, "swallows everything for 40 s, twice"),
        make(Line.SLOW, 15, "takes 150 ms each way for 15 s, twice"),
    ]


# Payouts instead of webhooks, see payday.py.
PAYDAY = Scenario(
    "payouts",
    "as many payouts to providers that answer badly; broker and PostgreSQL down twice each, a "
    "process killed every 3 s",
    nothing,
)

SCENARIOS = (
    Scenario(
        "kill-processes", "SIGKILL of a random gateway or worker every second", kill_processes
    ),
    Scenario("kill-broker", "SIGKILL of the broker and restart, twice", twice(restart_broker)),
    Scenario(
        "spool",
        "the broker down for 30 s, the gateways with a spool and killed twice meanwhile",
        spool,
        spool=True,
    ),
    Scenario("memory-alarm", "the broker in a memory alarm for 5 s, twice", twice(memory_alarm)),
    Scenario(
        "kill-leaders",
        "three broker nodes: SIGKILL of a queue leader's, restart, then of the next leader's",
        twice(kill_queue_leader),
        cluster=True,
    ),
    Scenario(
        "partition-minority",
        "three broker nodes: the one with the clients is cut off from both others for 30 s",
        partition_minority,
        cluster=True,
    ),
    Scenario(
        "partition-majority",
        "three broker nodes: each is cut off from both others for 20 s",
        partition_majority,
        cluster=True,
    ),
    Scenario("delete-queues", "three queues deleted, one of them a retry queue", delete_queues),
    Scenario(
        "stop-postgres", "PostgreSQL stopped in immediate mode, twice", twice(restart_postgres)
    ),
    Scenario(
        "failover",
        "PostgreSQL's primary dies and 3 s later its standby takes its place, twice",
        twice(fail_over),
        pair=True,
    ),
    Scenario("drop-connections", "all database connections dropped every second", drop_connections),
    Scenario(
        "hang-statements",
        "a table locked for 15 s; then six PostgreSQL backends frozen for 40 s",
        hang_statements,
    ),
    *_network("broker", lambda field: field.line_to_broker),
    *_network("database", lambda field: field.line_to_database),
    Scenario(
        "triple", "every webhook three times, shuffled, from eight connections", nothing, copies=3
    ),
    Scenario("poison", "a poisonous message every 100th", nothing, poison_every=100),
    Scenario("killer", "a handler that kills its process on one message", nothing, killer=True),
    Scenario(
        "rolling",
        "every process of every service replaced, one after the other, under 200 webhooks a second",
        roll_out,
        smooth=True,
        at_most=60_000,
    ),
    Scenario(
        "upgrade",
        "every process replaced by one of this version, by one of the version before, and by one "
        "of this version again, after its migrations, under 200 webhooks a second",
        upgrade,
        smooth=True,
        at_most=180_000,
        upgrade=True,
    ),
    Scenario("scale", "1, 2 and 8 replicas of each worker, scaled up and down", scale, replicas=1),
    PAYDAY,
)

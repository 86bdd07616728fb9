"""Promise 6: any process may be killed at any time, and any number of replicas may run."""

from __future__ import annotations

import asyncio
import random
import signal
from datetime import timedelta
from uuid import uuid4

import psycopg
from sqlalchemy.ext.asyncio import create_async_engine

from common.contracts import topology
from common.contracts.event import Event
from common.contracts.jobs import RunJob
from common.db.database import sessions_of
from common.messaging.outbox import UnitOfWork
from common.scheduling.scheduler import Every, Schedule, Scheduler
from conftest import MakePaybus
from devstack.webhook import subscription_created
from support.paybus import Paybus
from support.waiting import until

SUBSCRIPTIONS = 300


def _provisioned(paybus: Paybus) -> int:
    query = "SELECT count(*) FROM integrations WHERE status = 'provisioned'"
    count: int = paybus.sql("provisioning", query)[0][0]
    return count


def test_promise_6_workers_killed_at_random_lose_and_double_nothing(
    make_paybus: MakePaybus,
) -> None:
    """Two replicas of each worker; one of the four is killed after each amount of progress."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    workers = ["subscription-worker", "provisioning-worker"]
    with make_paybus(["webhook-gateway", "sandbox-backend"]) as paybus:
        for name in workers:
            for replica in range(2):
                spec = paybus.layout.spec(name, replica=replica)
                paybus.system.start_one(spec, restart=True)
        for number in range(SUBSCRIPTIONS):
            assert paybus.send(subscription_created(f"{uuid4().hex}")).status_code == 200
            if number % 50 == 49:
                name = chance.choice(workers)
                victim = paybus.system.processes[chance.choice([name, f"{name}-1"])]
                if victim.is_running():
                    victim.kill(signal.SIGKILL)
        until(
            lambda: _provisioned(paybus) == SUBSCRIPTIONS,
            what="all are provisioned",
            seconds=150,
        )
        books = paybus.books()
        assert len(books["organizations"]) == SUBSCRIPTIONS
        assert set(books["created"].values()) == {1}, "an organization was created twice"
        assert {len(users) for users in books["users"].values()} == {1}
        assert paybus.dead_letters() == {}
        assert sum(p.restarts for p in paybus.system.processes.values()) > 0


def test_promise_6_a_worker_killed_with_a_batch_in_hand_loses_nothing(
    make_paybus: MakePaybus,
) -> None:
    """A worker is blocked by a lock in the middle of its transaction, then killed."""
    with make_paybus(["webhook-gateway"]) as paybus:
        for _ in range(50):
            paybus.subscribe()
        url = paybus.layout.databases["subscription"].replace("+psycopg", "")
        stuck = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with psycopg.connect(url) as lock:
            lock.execute("LOCK TABLE subscriptions")
            worker = paybus.system.start_one(paybus.layout.spec("subscription-worker"))
            until(lambda: paybus.sql("subscription", stuck)[0][0] > 0, what="it is in the middle")
            worker.kill(signal.SIGKILL)
            worker.wait()
        paybus.start("subscription-worker")
        until(
            lambda: paybus.sql("subscription", "SELECT count(*) FROM subscriptions") == [(50,)],
            what="50 subscriptions",
        )


async def test_promise_6_schedulers_that_tick_at_the_same_moment_order_a_job_once(
    make_paybus: MakePaybus,
) -> None:
    with make_paybus() as paybus:
        engine = create_async_engine(paybus.layout.databases["provisioning"])
        schedule = [Schedule("job", Every(timedelta(hours=1)), _never_run)]
        schedulers = [
            Scheduler(sessions_of(engine), service="provisioning", tenant="t", schedule=schedule)
            for _ in range(4)
        ]
        await schedulers[0].register()
        for turn in range(1, 21):
            paybus.sql("provisioning", "UPDATE schedules SET next_run_at = now()")
            await asyncio.gather(*(scheduler.tick() for scheduler in schedulers))
            assert paybus.sql("provisioning", "SELECT count(*) FROM outbox") == [(turn,)]
        await engine.dispose()


async def _never_run(work: UnitOfWork, event: Event[RunJob]) -> str:
    raise AssertionError("a tick writes a message and runs nothing")


def test_promise_6_a_job_is_ordered_once_however_many_replicas_tick(
    make_paybus: MakePaybus,
) -> None:
    with make_paybus() as paybus:
        for replica in range(3):
            spec = paybus.layout.spec("provisioning-worker", replica=replica)
            paybus.system.start_one(spec)
        for process in paybus.system.processes.values():
            process.wait_ready()
        paybus.tap(topology.JOBS, "#")
        due = "UPDATE schedules SET next_run_at = now() WHERE name = 'health-check'"
        for turn in range(1, 4):
            paybus.sql("provisioning", due)
            ran = "SELECT count(*) FROM inbox WHERE queue = 'provisioning.jobs'"
            until(
                lambda: paybus.sql("provisioning", ran)[0][0] >= turn,
                what=f"run number {turn}",
            )
        assert [each["type"] for each in paybus.tapped()] == ["job.run.provisioning"] * 3
        row = paybus.sql(
            "provisioning",
            "SELECT last_outcome, last_result FROM schedules WHERE name = 'health-check'",
        )
        assert row == [("succeeded", "healthy: 0 of 0 attempts failed")]

"""Scheduled jobs: mixed versions side by side, and wrong clocks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from common.contracts.event import Event
from common.contracts.jobs import RunJob
from common.db.database import Sessions, sessions_of
from common.messaging.outbox import UnitOfWork
from common.scheduling.scheduler import Cron, Every, Schedule, Scheduler
from conftest import MakePaybus
from support.paybus import Paybus
from support.waiting import until

_HOURLY = Every(timedelta(hours=1))


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus() as paybus:
        yield paybus


@asynccontextmanager
async def _database(paybus: Paybus) -> AsyncIterator[Sessions]:
    engine = create_async_engine(paybus.layout.databases["provisioning"])
    paybus.sql("provisioning", "DELETE FROM schedules")
    paybus.sql("provisioning", "DELETE FROM outbox")
    yield sessions_of(engine)
    await engine.dispose()


def _version(sessions: Sessions, **jobs: Every | Cron) -> Scheduler:
    schedule = [Schedule(name, when, _do_nothing) for name, when in jobs.items()]
    return Scheduler(sessions, service="provisioning", tenant="t", schedule=schedule)


async def _do_nothing(work: UnitOfWork, event: Event[RunJob]) -> str:
    return "nothing"


def _rows(paybus: Paybus) -> list[tuple[object, ...]]:
    return paybus.sql("provisioning", "SELECT name, paused FROM schedules ORDER BY name")


def _ordered(paybus: Paybus) -> int:
    count: int = paybus.sql("provisioning", "SELECT count(*) FROM outbox")[0][0]
    return count


async def test_versions_that_mix_leave_each_other_s_jobs_alone(paybus: Paybus) -> None:
    """A paused job stays paused when an older replica that does not know it starts."""
    async with _database(paybus) as sessions:
        new = _version(sessions, a=_HOURLY, b=_HOURLY)
        old = _version(sessions, a=_HOURLY)
        await new.register()
        paybus.sql("provisioning", "UPDATE schedules SET paused = true WHERE name = 'b'")
        await old.register()
        await new.register()
        assert _rows(paybus) == [("a", False), ("b", True)]


async def test_a_job_runs_although_two_versions_disagree_about_it(paybus: Paybus) -> None:
    """Both versions register repeatedly, and neither delays the next run."""
    async with _database(paybus) as sessions:
        old = _version(sessions, a=_HOURLY)
        new = _version(sessions, a=Every(timedelta(hours=2)))
        await old.register()
        paybus.sql("provisioning", "UPDATE schedules SET next_run_at = now() + interval '1 minute'")
        for version in (new, old, new):
            await version.register()
        soon = "SELECT next_run_at < now() + interval '2 minutes' FROM schedules"
        assert paybus.sql("provisioning", soon) == [(True,)]


async def test_a_job_that_no_version_has_any_more_is_forgotten_after_a_week(
    paybus: Paybus,
) -> None:
    async with _database(paybus) as sessions:
        await _version(sessions, a=_HOURLY, b=_HOURLY).register()
        for days, left in ((6, ["a", "b"]), (8, ["a"])):
            age = "UPDATE schedules SET registered_at = now() - make_interval(days => %s)"
            paybus.sql("provisioning", f"{age} WHERE name = 'b'", days)
            await _version(sessions, a=_HOURLY).register()
            assert [name for name, _ in _rows(paybus)] == left


@pytest.mark.parametrize("when", [_HOURLY, Cron("*/30 * * * *")], ids=str)
async def test_a_next_run_is_never_later_than_the_schedule_allows(
    paybus: Paybus, when: Every | Cron
) -> None:
    """A machine whose clock was 400 days ahead for a second has written this time."""
    async with _database(paybus) as sessions:
        scheduler = _version(sessions, a=when)
        await scheduler.register()
        paybus.sql("provisioning", "UPDATE schedules SET next_run_at = now() + interval '400 days'")
        await scheduler.tick()
        allowed = "SELECT next_run_at <= now() + interval '1 hour' FROM schedules"
        assert paybus.sql("provisioning", allowed) == [(True,)]
        assert _ordered(paybus) == 0
        paybus.sql("provisioning", "UPDATE schedules SET next_run_at = now()")
        await scheduler.tick()
        assert _ordered(paybus) == 1


def test_an_idle_system_writes_nothing_to_the_journal(make_paybus: MakePaybus) -> None:
    """Every job that runs more than once a day has run, in every service that has any."""
    services = ("subscription", "provisioning", "payouts", "bank-sync", "orders")
    often = "FROM schedules WHERE expression LIKE 'every %'"
    with make_paybus([f"{each}-worker" for each in services]) as paybus:
        for service in services:
            until(
                lambda: paybus.sql(service, f"SELECT count(*) {often}")[0][0],
                what=f"{service} has registered its jobs",
            )
            paybus.sql(
                service, "UPDATE schedules SET next_run_at = now() WHERE expression ~ '^every'"
            )
        for service in services:
            until(
                lambda: not paybus.sql(service, f"SELECT name {often} AND last_outcome IS NULL"),
                what=f"the jobs of {service} have run",
            )
        assert paybus.journal() == []
        for process in paybus.system.processes.values():
            lines = [json.loads(line) for line in process.log.read_text().splitlines()]
            started = {"broker_connected", "consumer_started", "process_started"}
            assert {line["message"] for line in lines} <= started, "an idle log is quiet"

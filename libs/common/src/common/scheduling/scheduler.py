"""Scheduled jobs. A tick only writes a job message; the job runs on whichever worker receives
it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy.exc
from cronsim import CronSim
from sqlalchemy import Result, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.background import PeriodicTask
from common.contracts.event import Event, derived_id
from common.contracts.jobs import JOB_PREFIX, RunJob
from common.db import tenant_rows
from common.db.database import Sessions
from common.errors import NotFound, Permanent, describe
from common.messaging import outbox
from common.messaging.events import new_event
from common.messaging.outbox import UnitOfWork
from common.observability import metrics
from common.observability.logging import get_logger
from common.scheduling.tables import schedules

log = get_logger(__name__)

_TICK_SECONDS = 1.0
_REGISTER_SECONDS = 60.0
# A job that no version has registered for this long is deleted; rollouts and rollbacks finish
# sooner.
_FORGOTTEN_AFTER = timedelta(days=7)
_LEADER_LOCK = func.pg_try_advisory_xact_lock(func.hashtext("paybus-scheduler"))

Job = Callable[[UnitOfWork, Event[RunJob]], Awaitable[str]]


@dataclass(frozen=True)
class Every:
    """Schedule at a fixed interval."""

    interval: timedelta

    def next_after(self, moment: datetime) -> datetime:
        return moment + self.interval

    def __str__(self) -> str:
        return f"every {self.interval}"


@dataclass(frozen=True)
class Cron:
    """Schedule by a cron expression (five fields) in a time zone, daylight saving included."""

    expression: str
    zone: str = "UTC"

    def next_after(self, moment: datetime) -> datetime:
        following: datetime = next(CronSim(self.expression, moment.astimezone(ZoneInfo(self.zone))))
        return following.astimezone(UTC)

    def __str__(self) -> str:
        return f"cron {self.expression} ({self.zone})"


@dataclass(frozen=True)
class Schedule:
    """Job `name` with its schedule; `run` returns a sentence about what it did."""

    name: str
    when: Every | Cron
    run: Job


class Scheduler(PeriodicTask):
    """Task that enqueues due jobs, once a second. One runs in every worker; the advisory lock
    elects one.

    Advancing `next_run_at` and writing the job message are one transaction, so a tick is neither
    lost nor duplicated. Runs that were missed while nothing ran are made up for once, not one by
    one. The time is the database's: a machine with a wrong clock would move the jobs of all others.
    """

    def __init__(
        self, sessions: Sessions, *, service: str, tenant: str, schedule: Sequence[Schedule]
    ) -> None:
        self._sessions = sessions
        self._service = service
        self._tenant = tenant
        self._schedule = {each.name: each for each in schedule}
        self._next_registration = 0.0
        super().__init__(_TICK_SECONDS)

    async def step(self) -> bool:
        try:
            if time.monotonic() >= self._next_registration:
                await self.register()  # repeated: unregistered jobs expire
                self._next_registration = time.monotonic() + _REGISTER_SECONDS
            await self.tick()
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("scheduler_tick_failed", error=describe(error))
        return False

    async def tick(self) -> None:
        """Write a job message for every schedule that is due, unless another replica does."""
        async with self._sessions.begin() as session:
            if not await session.scalar(select(_LEADER_LOCK)):
                return
            now = await tenant_rows.database_now(session)
            known = schedules.c.name.in_(list(self._schedule))  # others belong to another version
            found = await session.execute(
                select(schedules.c.name, schedules.c.next_run_at)
                .where(known, ~schedules.c.paused)
                .order_by(schedules.c.name)
            )
            for name, next_run_at in found.all():
                following = self._schedule[name].when.next_after(now)
                if next_run_at > following:
                    log.error(
                        "job_next_run_corrected",
                        job=name,
                        was=next_run_at.isoformat(),
                    )
                elif next_run_at <= now:
                    run = {"service": self._service, "tenant": self._tenant, "job": name}
                    await enqueue_run(session, **run, at=now)
                    metrics.scheduler_ticks.labels(name).inc()
                else:
                    continue
                await session.execute(
                    update(schedules).where(schedules.c.name == name).values(next_run_at=following)
                )

    async def register(self) -> None:
        """Write the schedule to the database; paused jobs stay paused.

        While versions are mixed, each leaves the others' jobs alone, and where two differ about a
        job the earlier next run applies.
        """
        async with self._sessions.begin() as session:
            now = await tenant_rows.database_now(session)
            for name, each in sorted(self._schedule.items()):
                row = insert(schedules).values(
                    name=name,
                    expression=str(each.when),
                    next_run_at=each.when.next_after(now),
                    registered_at=now,
                )
                changed = {
                    "expression": row.excluded.expression,
                    "next_run_at": func.least(schedules.c.next_run_at, row.excluded.next_run_at),
                    "registered_at": row.excluded.registered_at,
                }
                await session.execute(
                    row.on_conflict_do_update(index_elements=[schedules.c.name], set_=changed)
                )
            await session.execute(
                delete(schedules).where(schedules.c.registered_at < now - _FORGOTTEN_AFTER)
            )


async def enqueue_run(
    session: AsyncSession,
    *,
    service: str,
    tenant: str,
    job: str,
    at: datetime,
    goes_on: Event[RunJob] | None = None,
) -> str:
    """Run `job` once when the session commits; return the run's id.

    `goes_on` is the run whose remaining work this one does.
    """
    first = goes_on and (goes_on.data.first_ordered_at or goes_on.time)
    run_id = derived_id(service, job, at.isoformat())
    order = new_event(
        id=run_id,
        source=f"/{service}/scheduler",
        type=f"{JOB_PREFIX}{service}",
        subject=job,
        time=at,
        tenant=tenant,
        data=RunJob(job=job, run_id=run_id, first_ordered_at=first),
    )
    await outbox.enqueue(session, [order])
    return run_id


async def continue_if_full(
    session: AsyncSession, service: str, event: Event[RunJob], found: Sized, most: int
) -> None:
    """Run the job again before its next time if it found the `most` rows that it handles at once:
    there may be more."""
    if len(found) >= most:
        now = await tenant_rows.database_now(session)
        await enqueue_run(
            session, service=service, tenant=event.tenant, job=event.data.job, at=now, goes_on=event
        )


def job_handler(
    sessions: Sessions, schedule: Sequence[Schedule]
) -> Callable[[UnitOfWork, Event[RunJob]], Awaitable[None]]:
    """Return the consumer's handler for job messages: it runs the job and stores its outcome."""
    jobs: Mapping[str, Job] = {each.name: each.run for each in schedule}
    for each in jobs:
        for outcome in ("succeeded", "failed", "cancelled"):
            metrics.job_runs.labels(each, outcome)  # from 0, or the first increment is missed

    async def handle(work: UnitOfWork, event: Event[RunJob]) -> None:
        name = event.data.job
        if name not in jobs:
            raise Permanent(f"there is no job {name!r}")
        started = time.perf_counter()
        if await _cancelled(work.session, event):
            await _keep_outcome(work.session, name, started, "cancelled", "not begun")
            return
        try:
            result = await jobs[name](work, event)
        except Exception as error:
            # In a separate transaction: the job's own is about to be rolled back.
            async with sessions.begin() as session:
                await _keep_outcome(session, name, started, "failed", describe(error))
            raise
        await _keep_outcome(work.session, name, started, "succeeded", result)
        log.debug("job_completed", job=name, result=result)

    return handle


async def _cancelled(session: AsyncSession, event: Event[RunJob]) -> bool:
    query = select(schedules.c.cancelled_at).where(schedules.c.name == event.data.job)
    cancelled_at: datetime | None = await session.scalar(query)
    ordered_at = event.data.first_ordered_at or event.time
    return cancelled_at is not None and ordered_at <= cancelled_at


async def _keep_outcome(
    session: AsyncSession, name: str, started: float, outcome: str, result: str
) -> None:
    metrics.job_runs.labels(name, outcome).inc()
    await session.execute(
        update(schedules)
        .where(schedules.c.name == name)
        .values(
            last_run_at=func.now(),
            last_duration_seconds=time.perf_counter() - started,
            last_outcome=outcome,
            last_result=result[:2000],
        )
    )


async def list_all(session: AsyncSession) -> list[dict[str, Any]]:
    found = await session.execute(select(schedules).order_by(schedules.c.name))
    return [dict(row) for row in found.mappings()]


async def get(session: AsyncSession, name: str) -> dict[str, Any]:
    """Return the schedule. Raise `NotFound`."""
    found = await session.execute(select(schedules).where(schedules.c.name == name))
    return _row(found, name)


async def set_paused(session: AsyncSession, name: str, *, paused: bool) -> dict[str, Any]:
    """Pause or resume a schedule. Raise `NotFound`.

    A schedule that was due while paused runs once after it is resumed.
    """
    changed = await session.execute(
        update(schedules).where(schedules.c.name == name).values(paused=paused).returning(schedules)
    )
    return _row(changed, name)


async def cancel(session: AsyncSession, name: str) -> dict[str, Any]:
    """Cancel the runs enqueued until now. Raise `NotFound`.

    A run that has not begun never will; a run in progress leaves no work to a further one. Later
    ticks run as usual.
    """
    changed = await session.execute(
        update(schedules)
        .where(schedules.c.name == name)
        .values(cancelled_at=func.clock_timestamp())
        .returning(schedules)
    )
    return _row(changed, name)


def _row(result: Result[Any], name: str) -> dict[str, Any]:
    row = result.mappings().first()
    if row is None:
        raise NotFound(f"there is no schedule {name!r}")
    return dict(row)

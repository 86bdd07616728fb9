"""Components that every service's `bootstrap.py` assembles, and their health checks."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter
from sqlalchemy.ext.asyncio import AsyncEngine

from common.contracts import topology
from common.contracts.retry_ladder import RetryLadder
from common.db import database
from common.db.database import Sessions
from common.http.app import Check, create_app
from common.http.resources import provide, secure
from common.http.service_status import status_router
from common.messaging.connection import BrokerConnection, OnConnect
from common.messaging.consumer import Consumer
from common.messaging.inbox_cleanup import Housekeeper
from common.messaging.publisher import Publisher
from common.messaging.relay import Relay
from common.messaging.topology_declarer import declaring
from common.messaging.transactional_consumer import TransactionalConsumer
from common.observability import metrics
from common.observability.redaction import Redactor
from common.runtime import gauges
from common.runtime.gauge_collector import GaugeCollector
from common.runtime.service import RoleContext, RoleProcess, Task, exit_with_error
from common.scheduling.api import schedules_router
from common.scheduling.scheduler import Schedule, Scheduler, job_handler
from common.settings import ApiSettings, BrokerSettings, DatabaseSettings, WorkerSettings

# Longer than a reconnect and a redeclaration take; a consumer absent for longer will not return.
_CONSUMER_GRACE_SECONDS = 60

_GIVEN_UP = "the task that connects to RabbitMQ has ended"


@dataclass(frozen=True)
class Messaging:
    broker: BrokerConnection
    declare: OnConnect
    publisher: Publisher
    ladder: RetryLadder
    redact: Redactor


async def messaging(settings: BrokerSettings, context: RoleContext, name: str) -> Messaging:
    """Start to connect to the broker; the topology is declared after every connect."""
    ladder = RetryLadder.parse(settings.retry_ladder)
    declare = declaring(ladder)
    broker = await _connect(settings, context, name, declare, purpose="publishing")
    return Messaging(broker, declare, Publisher(broker), ladder, context.redact)


async def consuming(
    settings: BrokerSettings, context: RoleContext, parts: Messaging, name: str
) -> BrokerConnection:
    """Return a connection for consumers only.

    A broker in a memory or disk alarm reads nothing from a connection that has published, not even
    its acknowledgements. On their own connection consumers continue, and draining the queues ends
    the alarm.
    """
    return await _connect(settings, context, name, parts.declare, purpose="consuming")


async def _connect(
    settings: BrokerSettings, context: RoleContext, name: str, declare: OnConnect, *, purpose: str
) -> BrokerConnection:
    broker = BrokerConnection(
        settings.rabbitmq_url.get_secret_value(), name=name, on_connect=declare
    )
    metrics.broker_connected.labels(purpose).set_function(lambda: float(broker.connected))
    await broker.start()
    context.resources.push_async_callback(broker.close)
    return broker


async def database_engine(settings: DatabaseSettings, context: RoleContext) -> AsyncEngine:
    """Return the engine. Exit when the URL leads to a pooler, which retains neither time limits nor
    LISTEN."""
    engine = await context.resources.enter_async_context(database.engine(settings))
    if (wrong := await database.unfit(engine)) is not None:
        exit_with_error(f"DATABASE_URL is wrong: {wrong}")
    return engine


def api(
    title: str,
    settings: ApiSettings,
    engine: AsyncEngine,
    routers: Sequence[APIRouter],
    *,
    service: str,
    parts: Sequence[object] = (),
    has_circuits: bool = False,
    large_bodies: Collection[str] = (),
) -> RoleProcess:
    """Return an API of `routers`, and of the schedules and the status of `service`.

    `parts` are the dependencies of its endpoints, by type; `has_circuits` is whether it calls other
    systems.
    """
    app = create_app(
        title, alive=always_healthy, ready=database_check(engine), large_bodies=large_bodies
    )
    secure(app, settings)
    provide(app, sessions(engine), app.state.authenticator, *parts)
    tenant = settings.operator_tenant
    of_all_services = (
        schedules_router(service, tenant),
        status_router(tenant, circuits=has_circuits),
    )
    for router in (*routers, *of_all_services):
        app.include_router(router)
    return RoleProcess(app)


def worker(
    title: str,
    settings: WorkerSettings,
    parts: Messaging,
    engine: AsyncEngine,
    consumers: Sequence[Consumer],
    tasks: Sequence[Task] = (),
    routers: Sequence[APIRouter] = (),
) -> RoleProcess:
    """Return a worker: the consumers, an outbox relay, further tasks, and their health over HTTP,
    where `routers` add further endpoints."""
    relay = Relay(engine, parts.publisher)
    housekeeper = Housekeeper(sessions(engine), keep_days=settings.inbox_retention_days)
    watchdog = Watchdog([parts.broker, *(each.broker for each in consumers)], consumers)
    ready = all_checks(
        broker_check(parts.broker), database_check(engine), consumers_check(consumers)
    )
    app = create_app(title, alive=watchdog.check, ready=ready)
    for router in routers:
        app.include_router(router)
    meter = GaugeCollector(sessions(engine), gauges.measure)
    return RoleProcess(app, [*consumers, housekeeper, meter, *tasks], [relay])


def jobs(
    service: str, schedule: Sequence[Schedule], tenant: str, options: Mapping[str, Any]
) -> tuple[Consumer, Task]:
    """Return the consumer that runs a service's scheduled jobs, and the scheduler that enqueues
    them."""
    known = options["sessions"]
    consumer = TransactionalConsumer(
        topology.queue(f"{service.replace('_', '-')}.jobs"),
        {f"job.run.{service}": job_handler(known, schedule)},
        batch=1,
        **options,
    )
    return consumer, Scheduler(known, service=service, tenant=tenant, schedule=schedule)


def consumer_options(
    parts: Messaging, consuming: BrokerConnection, engine: AsyncEngine, *, source: str
) -> dict[str, Any]:
    """Return the options common to all consumers of a worker."""
    return {
        "broker": consuming,
        "publisher": parts.publisher,
        "sessions": sessions(engine),
        "ladder": parts.ladder,
        "redact": parts.redact,
        "source": source,
    }


def sessions(engine: AsyncEngine) -> Sessions:
    return database.sessions_of(engine)


@dataclass
class Watchdog:
    """Liveness of a worker: a consumer that stays absent while the broker is connected is a fault.

    An unreachable broker or database is none: a restart would not bring it back.
    """

    brokers: Sequence[BrokerConnection]
    consumers: Sequence[Consumer]
    _missing_since: dict[str, float] = field(default_factory=dict)

    async def check(self) -> str | None:
        if any(broker.given_up for broker in self.brokers):
            return _GIVEN_UP
        for consumer in self.consumers:
            name = consumer.queue.name
            away = consumer.waits_for_database or not consumer.broker.connected
            if consumer.consuming or away:
                self._missing_since.pop(name, None)
                continue
            since = self._missing_since.setdefault(name, time.monotonic())
            if time.monotonic() - since > _CONSUMER_GRACE_SECONDS:
                return f"nothing consumes {name} although RabbitMQ is connected"
        return None


def broker_alive(broker: BrokerConnection) -> Check:
    async def check() -> str | None:
        return _GIVEN_UP if broker.given_up else None

    return check


def broker_check(broker: BrokerConnection) -> Check:
    async def check() -> str | None:
        return None if broker.connected else "RabbitMQ is not connected"

    return check


def consumers_check(consumers: Sequence[Consumer]) -> Check:
    async def check() -> str | None:
        absent = [each.queue.name for each in consumers if not each.consuming]
        return f"not consuming {', '.join(absent)}" if absent else None

    return check


def database_check(engine: AsyncEngine) -> Check:
    return partial(database.fault, sessions(engine))


def all_checks(*checks: Check) -> Check:
    async def check() -> str | None:
        for each in checks:
            if (fault := await each()) is not None:
                return fault
        return None

    return check


async def always_healthy() -> str | None:
    """Report no fault, for processes that are alive if they respond at all."""
    return None

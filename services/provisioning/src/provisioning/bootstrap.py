"""Wires the provisioning service."""

import httpx

from common import parts
from common.api import schedules_router, secure
from common.circuits import Circuits
from common.contracts import topology
from common.database import Sessions
from common.figures import figures_router
from common.gate import Gate
from common.http import create_app
from common.messaging.effectful import EffectfulConsumer
from common.messaging.transactional import TransactionalConsumer
from common.scheduler import Scheduler, job_handler
from common.service import Context, Running
from provisioning import handlers
from provisioning.api import router
from provisioning.clients.backend import Backend, BackendBusy
from provisioning.handlers import Handlers
from provisioning.provisioner import SOURCE, Provisioner
from provisioning.settings import ApiSettings, BackendSettings, WorkerSettings

_ATTEMPTS = 5
_AT_ONCE = 500  # as many operations as CONCURRENCY may be


async def api(settings: ApiSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    sessions = parts.sessions(engine)
    app = create_app(
        "Paybus provisioning", alive=parts.always_well, ready=parts.database_check(engine)
    )
    secure(app, settings)
    app.state.sessions = sessions
    app.state.provisioner = await _provisioner(settings, context, sessions, settings.tenant)
    app.include_router(router)
    app.include_router(schedules_router("provisioning", settings.tenant))
    app.include_router(figures_router(settings.tenant, circuits=True))
    return Running(app)


async def worker(settings: WorkerSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    messaging = await parts.messaging(settings, context, "provisioning-worker")
    consuming = await parts.consuming(settings, context, messaging, "provisioning-worker consumers")
    options = parts.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = parts.sessions(engine)
    provisioner = await _provisioner(settings, context, sessions, settings.tenant)
    ours = Handlers(provisioner)
    schedule = ours.schedule()
    consumers = [
        TransactionalConsumer(
            topology.queue("provisioning.subscriptions"),
            ours.by_event(),
            prepare=handlers.prepare,
            **options,
        ),
        TransactionalConsumer(
            topology.queue("provisioning.jobs"),
            {"provisioning.job_due": job_handler(sessions, schedule)},
            batch=1,
            **options,
        ),
        EffectfulConsumer(
            topology.queue("provisioning.organizations"),
            ours.on_organization_requested,
            concurrency=settings.concurrency,
            attempts=_ATTEMPTS,
            on_give_up=provisioner.give_up,
            **options,
        ),
    ]
    scheduler = Scheduler(
        sessions, service="provisioning", tenant=settings.tenant, schedule=schedule
    )
    return parts.worker(
        "Paybus provisioning worker", settings, messaging, engine, consumers, tasks=[scheduler]
    )


async def _provisioner(
    settings: BackendSettings, context: Context, sessions: Sessions, tenant: str
) -> Provisioner:
    client = await context.resources.enter_async_context(
        httpx.AsyncClient(
            base_url=str(settings.backend_url),
            headers={"Authorization": f"Bearer {settings.backend_token.get_secret_value()}"},
            timeout=settings.backend_timeout_seconds,
            limits=httpx.Limits(max_connections=_AT_ONCE),
        )
    )
    gate = Gate(
        "the back end",
        label="backend",
        at_once=_AT_ONCE,
        quota=None,
        failures=settings.backend_circuit_failures,
        answers=[BackendBusy],
        open_seconds=settings.backend_circuit_seconds,
        on_change=Circuits(sessions).listener(tenant, "backend"),
    )
    return Provisioner(
        sessions,
        Backend(client),
        gate,
        enabled=settings.backend_integration_enabled,
        look_first=settings.backend_look_first,
        timeout=settings.backend_timeout_seconds,
        redact=context.redact,
    )

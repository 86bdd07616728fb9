"""Wires the provisioning service."""

import httpx

from common.contracts import topology
from common.db.database import Sessions
from common.http.app import create_app
from common.http.resources import secure
from common.http.service_status import status_router
from common.messaging.effect_consumer import EffectfulConsumer
from common.messaging.transactional_consumer import TransactionalConsumer
from common.resilience.call_guard import CallGuard
from common.resilience.circuit_store import Circuits
from common.runtime import wiring
from common.runtime.gauge_collector import GaugeCollector
from common.runtime.service import RoleContext, RoleProcess
from common.scheduling.api import schedules_router
from common.scheduling.scheduler import Scheduler, job_handler
from provisioning import handlers
from provisioning.api.integrations import router
from provisioning.clients.backend import Backend, BackendBusy
from provisioning.gauges import measure
from provisioning.handlers import Handlers
from provisioning.jobs import Jobs
from provisioning.provisioner import SOURCE, Provisioner
from provisioning.settings import ApiSettings, BackendSettings, WorkerSettings

_ATTEMPTS = 5
_AT_ONCE = 500  # as many operations as CONCURRENCY may be


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    sessions = wiring.sessions(engine)
    app = create_app(
        "Paybus provisioning", alive=wiring.always_healthy, ready=wiring.database_check(engine)
    )
    secure(app, settings)
    app.state.sessions = sessions
    app.state.provisioner = await _provisioner(
        settings, context, sessions, settings.operator_tenant
    )
    app.include_router(router)
    app.include_router(schedules_router("provisioning", settings.operator_tenant))
    app.include_router(status_router(settings.operator_tenant, circuits=True))
    return RoleProcess(app)


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "provisioning-worker")
    consuming = await wiring.consuming(
        settings, context, messaging, "provisioning-worker consumers"
    )
    options = wiring.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = wiring.sessions(engine)
    provisioner = await _provisioner(settings, context, sessions, settings.operator_tenant)
    ours = Handlers(provisioner)
    schedule = Jobs(provisioner).schedule()
    consumers = [
        TransactionalConsumer(
            topology.queue("provisioning.subscriptions"),
            ours.by_event(),
            prepare=handlers.prepare,
            **options,
        ),
        TransactionalConsumer(
            topology.queue("provisioning.jobs"),
            {"job.run.provisioning": job_handler(sessions, schedule)},
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
        sessions, service="provisioning", tenant=settings.operator_tenant, schedule=schedule
    )
    return wiring.worker(
        "Paybus provisioning worker",
        settings,
        messaging,
        engine,
        consumers,
        tasks=[scheduler, GaugeCollector(sessions, measure)],
    )


async def _provisioner(
    settings: BackendSettings, context: RoleContext, sessions: Sessions, tenant: str
) -> Provisioner:
    client = await context.resources.enter_async_context(
        httpx.AsyncClient(
            base_url=str(settings.backend_url),
            headers={"Authorization": f"Bearer {settings.backend_token.get_secret_value()}"},
            timeout=settings.backend_timeout_seconds,
            limits=httpx.Limits(max_connections=_AT_ONCE),
        )
    )
    gate = CallGuard(
        "the back end",
        label="backend",
        max_concurrency=_AT_ONCE,
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

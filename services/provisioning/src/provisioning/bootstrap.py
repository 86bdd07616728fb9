"""Wiring of the provisioning service."""

import httpx

from common.contracts import topology
from common.db.database import Sessions
from common.messaging.effect_consumer import EffectfulConsumer
from common.messaging.transactional_consumer import TransactionalConsumer
from common.resilience.call_guard import CallGuard
from common.resilience.circuit_store import Circuits
from common.runtime import wiring
from common.runtime.gauge_collector import GaugeCollector
from common.runtime.service import RoleContext, RoleProcess
from provisioning import handlers
from provisioning.api import integrations
from provisioning.clients.backend import Backend, BackendBusy
from provisioning.gauges import measure
from provisioning.handlers import Handlers
from provisioning.jobs import SERVICE, Jobs
from provisioning.provisioner import SOURCE, Provisioner
from provisioning.settings import ApiSettings, BackendSettings, WorkerSettings

_ATTEMPTS = 5
_AT_ONCE = 500  # the maximum of CONCURRENCY


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    sessions = wiring.sessions(engine)
    return wiring.api(
        "Paybus provisioning",
        settings,
        engine,
        [integrations.router],
        service=SERVICE,
        parts=[await _provisioner(settings, context, sessions, settings.operator_tenant)],
        has_circuits=True,
    )


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
    jobs, scheduler = wiring.jobs(
        SERVICE, Jobs(provisioner).schedule(), settings.operator_tenant, options
    )
    consumers = [
        TransactionalConsumer(
            topology.queue("provisioning.subscriptions"),
            ours.by_event(),
            prepare=handlers.prepare,
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
        jobs,
    ]
    tasks = [scheduler, GaugeCollector(sessions, measure)]
    return wiring.worker(
        "Paybus provisioning worker", settings, messaging, engine, consumers, tasks
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

"""Wires the bank-sync service."""

from datetime import timedelta

from bank_sync import handlers
from bank_sync.api import items as bank_api
from bank_sync.api import transactions
from bank_sync.clients.rate_limiter import ProviderRateLimiter
from bank_sync.clients.registry import Clients
from bank_sync.events import SOURCE
from bank_sync.gauges import measure
from bank_sync.item_service import ItemService
from bank_sync.jobs import SERVICE, Jobs
from bank_sync.row_security import TenantSessions
from bank_sync.settings import ApiSettings, BankSettings, WorkerSettings
from bank_sync.sync_runner import Syncer
from common.clients.accounts_file import AccountsInvalid
from common.contracts import topology
from common.contracts.event import Event
from common.db.database import Sessions
from common.http.app import create_app
from common.http.resources import secure
from common.http.service_status import status_router
from common.messaging.effect_consumer import EffectfulConsumer
from common.messaging.outbox import UnitOfWork
from common.messaging.transactional_consumer import TransactionalConsumer
from common.resilience.circuit_store import Circuits
from common.runtime import wiring
from common.runtime.gauge_collector import GaugeCollector
from common.runtime.service import RoleContext, RoleProcess, Task, exit_with_error
from common.scheduling.api import schedules_router
from common.scheduling.scheduler import Scheduler, job_handler
from common.security.encryption import SecretBox

_ATTEMPTS = 8
# Longer than the ladder: what comes back by itself is not ordered again.
_PATIENCE = timedelta(hours=2)


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    sessions = wiring.sessions(engine)
    tenancy = TenantSessions(sessions)
    clients = _clients(settings, context, sessions)
    app = create_app(
        "Paybus bank sync", alive=wiring.always_healthy, ready=wiring.database_check(engine)
    )
    secure(app, settings)
    app.state.sessions = sessions
    app.state.tenancy = tenancy
    app.state.service = ItemService(tenancy, clients, SecretBox(settings.encryption_keys))
    app.state.balance_ttl = settings.bank_balance_ttl_seconds
    for router in (*bank_api.ROUTERS, transactions.transactions):
        app.include_router(router)
    app.include_router(schedules_router(SERVICE, settings.operator_tenant))
    app.include_router(status_router(settings.operator_tenant, circuits=True))
    return RoleProcess(app)


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "bank-sync-worker")
    consuming = await wiring.consuming(settings, context, messaging, "bank-sync-worker consumers")
    options = wiring.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = wiring.sessions(engine)
    tenancy = TenantSessions(sessions)
    clients = _clients(settings, context, sessions)
    vault = SecretBox(settings.encryption_keys)
    syncer = Syncer(
        tenancy,
        clients,
        vault,
        lease=timedelta(seconds=settings.bank_sync_lease_seconds),
        sweep=timedelta(hours=settings.bank_sync_max_age_hours),
    )
    pause = timedelta(seconds=settings.banks_interval_seconds)
    service = ItemService(tenancy, clients, vault)
    jobs = Jobs(pause=pause, patience=min(_PATIENCE, 240 * pause))
    schedule = jobs.schedule()

    async def take(event: Event) -> None:  # type: ignore[type-arg]
        if event.type == "bank_item.remove":
            await service.remove_at_provider(event.tenant, event.data.item)
        else:
            await syncer.do(event)

    async def give_up(work: UnitOfWork, event: Event, error: BaseException) -> None:  # type: ignore[type-arg]
        if event.type == "bank_sync.run":
            await syncer.give_up(work, event, error)

    consumers = [
        TransactionalConsumer(
            topology.queue("bank-sync.items"),
            handlers.by_event(),
            prepare=handlers.prepare,
            **options,
        ),
        EffectfulConsumer(
            topology.queue("bank-sync.syncs"),
            take,
            concurrency=settings.concurrency,
            attempts=_ATTEMPTS,
            on_give_up=give_up,
            **options,
        ),
        TransactionalConsumer(
            topology.queue("bank-sync.jobs"),
            {f"job.run.{SERVICE}": job_handler(sessions, schedule)},
            batch=1,
            **options,
        ),
    ]
    tasks: list[Task] = [
        Scheduler(sessions, service=SERVICE, tenant=settings.operator_tenant, schedule=schedule),
        GaugeCollector(sessions, measure),
    ]
    return wiring.worker("Paybus bank sync worker", settings, messaging, engine, consumers, tasks)


def _clients(settings: BankSettings, context: RoleContext, sessions: Sessions) -> Clients:
    redis = settings.redis_url
    try:
        return Clients(
            settings.bank_accounts_file,
            ProviderRateLimiter(sessions, redis.get_secret_value() if redis is not None else None),
            context.redact,
            timeout=settings.provider_timeout_seconds,
            circuits=Circuits(sessions),
            closing=context.resources.callback,
        )
    except AccountsInvalid as error:
        exit_with_error(f"BANK_ACCOUNTS_FILE is wrong: {error}")

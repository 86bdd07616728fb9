"""Wires the bank-sync service."""

from datetime import timedelta

from bank_sync import api as bank_api
from bank_sync import api_transactions, handlers
from bank_sync.accounts import Clients
from bank_sync.events import SOURCE
from bank_sync.jobs import SERVICE, Jobs
from bank_sync.limits import Counter
from bank_sync.linking import Desk
from bank_sync.measuring import measure
from bank_sync.settings import ApiSettings, BankSettings, WorkerSettings
from bank_sync.syncing import Syncer
from bank_sync.tenancy import Tenancy
from common import parts
from common.accounts import AccountsInvalid
from common.api import schedules_router, secure
from common.circuits import Circuits
from common.contracts import topology
from common.contracts.event import Event
from common.crypto import Vault
from common.database import Sessions
from common.figures import figures_router
from common.http import create_app
from common.measuring import Meter
from common.messaging.effectful import EffectfulConsumer
from common.messaging.outbox import Work
from common.messaging.transactional import TransactionalConsumer
from common.scheduler import Scheduler, job_handler
from common.service import Context, Running, Task, refuse

_ATTEMPTS = 8
# Longer than the ladder: what comes back by itself is not ordered again.
_PATIENCE = timedelta(hours=2)


async def api(settings: ApiSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    sessions = parts.sessions(engine)
    tenancy = Tenancy(sessions)
    clients = _clients(settings, context, sessions)
    app = create_app(
        "Paybus bank sync", alive=parts.always_well, ready=parts.database_check(engine)
    )
    secure(app, settings)
    app.state.sessions = sessions
    app.state.tenancy = tenancy
    app.state.desk = Desk(tenancy, clients, Vault(settings.encryption_keys))
    app.state.balance_ttl = settings.balance_ttl_seconds
    for router in (*bank_api.ROUTERS, api_transactions.transactions):
        app.include_router(router)
    app.include_router(schedules_router(SERVICE, settings.tenant))
    app.include_router(figures_router(settings.tenant, circuits=True))
    return Running(app)


async def worker(settings: WorkerSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    messaging = await parts.messaging(settings, context, "bank-sync-worker")
    consuming = await parts.consuming(settings, context, messaging, "bank-sync-worker consumers")
    options = parts.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = parts.sessions(engine)
    tenancy = Tenancy(sessions)
    clients = _clients(settings, context, sessions)
    vault = Vault(settings.encryption_keys)
    syncer = Syncer(
        tenancy,
        clients,
        vault,
        lease=timedelta(seconds=settings.lease_seconds),
        sweep=timedelta(hours=settings.sweep_hours),
    )
    pause = timedelta(seconds=settings.banks_pause_seconds)
    desk = Desk(tenancy, clients, vault)
    jobs = Jobs(pause=pause, patience=min(_PATIENCE, 240 * pause))
    schedule = jobs.schedule()

    async def take(event: Event) -> None:  # type: ignore[type-arg]
        if event.type == "bank_sync.removal_due":
            await desk.try_to_remove(event.tenant, event.data.item)
        else:
            await syncer.do(event)

    async def give_up(work: Work, event: Event, error: BaseException) -> None:  # type: ignore[type-arg]
        if event.type == "bank_sync.due":
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
            {f"{SERVICE}.job_due": job_handler(sessions, schedule)},
            batch=1,
            **options,
        ),
    ]
    tasks: list[Task] = [
        Scheduler(sessions, service=SERVICE, tenant=settings.tenant, schedule=schedule),
        Meter(sessions, measure),
    ]
    return parts.worker("Paybus bank sync worker", settings, messaging, engine, consumers, tasks)


def _clients(settings: BankSettings, context: Context, sessions: Sessions) -> Clients:
    redis = settings.redis_url
    try:
        return Clients(
            settings.bank_accounts_file,
            Counter(sessions, redis.get_secret_value() if redis is not None else None),
            context.redact,
            timeout=settings.provider_timeout_seconds,
            circuits=Circuits(sessions),
            closing=context.resources.callback,
        )
    except AccountsInvalid as error:
        refuse(f"BANK_ACCOUNTS_FILE is wrong: {error}")

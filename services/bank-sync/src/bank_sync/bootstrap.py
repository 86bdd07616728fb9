"""Wiring of the bank-sync service."""

from datetime import timedelta

from bank_sync import handlers
from bank_sync.api import items, transactions
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
from common.db.database import Sessions
from common.messaging.effect_consumer import EffectfulConsumer
from common.messaging.transactional_consumer import TransactionalConsumer
from common.resilience.circuit_store import Circuits
from common.runtime import wiring
from common.runtime.gauge_collector import GaugeCollector
from common.runtime.service import RoleContext, RoleProcess, exit_with_error
from common.security.encryption import SecretBox

_ATTEMPTS = 8
# Longer than the retry ladder: a sync that is still being retried is not enqueued again.
_REQUEUE_AFTER = timedelta(hours=2)


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    sessions = wiring.sessions(engine)
    tenancy = TenantSessions(sessions)
    service = ItemService(
        tenancy,
        _clients(settings, context, sessions),
        SecretBox(settings.encryption_keys),
        balance_ttl=timedelta(seconds=settings.bank_balance_ttl_seconds),
    )
    return wiring.api(
        "Paybus bank sync",
        settings,
        engine,
        [*items.ROUTERS, transactions.transactions],
        service=SERVICE,
        parts=[tenancy, service],
        has_circuits=True,
    )


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "bank-sync-worker")
    consuming = await wiring.consuming(settings, context, messaging, "bank-sync-worker consumers")
    options = wiring.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = wiring.sessions(engine)
    tenancy = TenantSessions(sessions)
    clients = _clients(settings, context, sessions)
    secret_box = SecretBox(settings.encryption_keys)
    syncer = Syncer(
        tenancy,
        clients,
        secret_box,
        lease=timedelta(seconds=settings.bank_sync_lease_seconds),
        sweep=timedelta(hours=settings.bank_sync_max_age_hours),
    )
    commands = handlers.Commands(syncer, ItemService(tenancy, clients, secret_box))
    interval = timedelta(seconds=settings.banks_interval_seconds)
    schedule = Jobs(interval=interval, requeue_after=min(_REQUEUE_AFTER, 240 * interval)).schedule()
    jobs, scheduler = wiring.jobs(SERVICE, schedule, settings.operator_tenant, options)
    consumers = [
        TransactionalConsumer(
            topology.queue("bank-sync.items"),
            handlers.HANDLERS,
            prepare=handlers.prepare,
            **options,
        ),
        EffectfulConsumer(
            topology.queue("bank-sync.syncs"),
            commands.do,
            concurrency=settings.concurrency,
            attempts=_ATTEMPTS,
            on_give_up=commands.give_up,
            **options,
        ),
        jobs,
    ]
    tasks = [scheduler, GaugeCollector(sessions, measure)]
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

"""Assembles the operations service's processes."""

from datetime import timedelta

from common.contracts import topology
from common.messaging.transactional_consumer import TransactionalConsumer
from common.resilience.cache import Cache
from common.runtime import wiring
from common.runtime.gauge_collector import GaugeCollector
from common.runtime.service import RoleContext, RoleProcess, Task
from common.security.encryption import SecretBox
from operations.api import actions, dead_letters, journal, overview, replays
from operations.console.forms import forms
from operations.console.pages import pages
from operations.console.session import ConsoleCookies
from operations.dead_letters.collector import DeadLetterCollector
from operations.handlers import COMPLETIONS, OUTCOMES
from operations.jobs import SERVICE, Jobs
from operations.monitoring.gauges import measure
from operations.monitoring.journal_indexer import JournalIndexer
from operations.monitoring.queue_monitor import QueueMonitor
from operations.monitoring.service_clients import Services
from operations.replay.payout_guard import PayoutReplayGuard
from operations.replay.runner import ReplayRunner
from operations.service import OperatorService
from operations.settings import ApiSettings, WorkerSettings

_SOURCE = "/operations"


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    secret_box = SecretBox(settings.encryption_keys)
    window = timedelta(hours=settings.payout_replay_window_hours)
    payouts_url = str(settings.payouts_url) if settings.payouts_url else None
    signed_out = Cache("signed-out", settings.redis_url)
    context.resources.push_async_callback(signed_out.close)
    return wiring.api(
        "Paybus operations",
        settings,
        engine,
        [
            dead_letters.letters,
            replays.replays,
            journal.journal,
            actions.actions,
            *overview.ROUTERS,
            pages,
            forms,
        ],
        service=SERVICE,
        parts=[
            OperatorService(
                settings.operator_tenant,
                context.redact,
                secret_box,
                PayoutReplayGuard(payouts_url, window, secret_box),
                settings.edit_and_replay_enabled,
            ),
            Services(settings.service_urls, settings.gateway_url),
            signed_out,
            ConsoleCookies(are_secure=not settings.console_insecure_cookies),
        ],
    )


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "operations-worker")
    consuming = await wiring.consuming(settings, context, messaging, "operations-worker consumers")
    options = wiring.consumer_options(messaging, consuming, engine, source=_SOURCE)
    sessions = wiring.sessions(engine)
    vault = SecretBox(settings.encryption_keys)
    schedule = Jobs(retention=timedelta(days=settings.dead_letter_retention_days)).schedule()
    jobs, scheduler = wiring.jobs(SERVICE, schedule, settings.operator_tenant, options)
    consumers = [
        *(
            DeadLetterCollector(queue, vault, **options)
            for queue in (*topology.QUEUES, topology.WEBHOOKS)
        ),
        TransactionalConsumer(topology.queue("operations.outcomes"), OUTCOMES, batch=20, **options),
        TransactionalConsumer(
            topology.queue("operations.completions"), COMPLETIONS, batch=100, **options
        ),
        jobs,
    ]
    tasks: list[Task] = [
        ReplayRunner(
            sessions,
            consuming,
            messaging.publisher,
            vault,
            lease=timedelta(seconds=settings.replay_lease_seconds),
        ),
        JournalIndexer(sessions, consuming),
        QueueMonitor(sessions, consuming, messaging.ladder),
        scheduler,
        GaugeCollector(sessions, measure),
    ]
    return wiring.worker("Paybus operations worker", settings, messaging, engine, consumers, tasks)

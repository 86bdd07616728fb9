"""Wires the subscription service."""

from datetime import timedelta
from functools import partial
from typing import Any

import httpx

from common.clients.accounts_file import AccountsInvalid
from common.contracts import topology
from common.http.app import create_app
from common.http.resources import secure
from common.http.service_status import status_router
from common.messaging.effect_consumer import EffectfulConsumer
from common.messaging.transactional_consumer import TransactionalConsumer
from common.resilience.cache import Cache
from common.resilience.circuit_store import Circuits
from common.runtime import wiring
from common.runtime.service import RoleContext, RoleProcess, exit_with_error
from common.scheduling.api import schedules_router
from common.scheduling.scheduler import Scheduler, job_handler
from common.security.encryption import EncryptionSettings, SecretBox
from subscription import handlers, jobs
from subscription.api import billing
from subscription.api.subscriptions import router
from subscription.billing.commands import BillingCommands
from subscription.checkouts.payers import Payers
from subscription.checkouts.refunds import RefundService
from subscription.checkouts.service import CheckoutService
from subscription.providers.registry import Accounts
from subscription.settings import AccountsSettings, ApiSettings, WorkerSettings
from subscription.subscriptions.entitlements import EntitlementService


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    app = create_app(
        "Paybus subscription", alive=wiring.always_healthy, ready=wiring.database_check(engine)
    )
    secure(app, settings)
    sessions = wiring.sessions(engine)
    app.state.sessions = sessions
    app.state.accounts = await _accounts(settings, context, Circuits(sessions))
    calling: dict[str, Any] = {
        "timeout": settings.provider_timeout_seconds,
        "redact": context.redact,
    }
    app.state.checkouts = CheckoutService(
        sessions, app.state.accounts, _payers(settings), **calling
    )
    quiet = settings.billing_quiet_seconds
    app.state.commands = BillingCommands(sessions, app.state.accounts, quiet=quiet, **calling)
    cache = Cache("entitlements", settings.redis_url)
    context.resources.push_async_callback(cache.close)
    app.state.entitling = EntitlementService(sessions, cache)
    app.include_router(router)
    app.include_router(billing.router)
    app.include_router(schedules_router("subscription", settings.operator_tenant))
    app.include_router(status_router(settings.operator_tenant, circuits=True))
    return RoleProcess(app)


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "subscription-worker")
    consuming = await wiring.consuming(
        settings, context, messaging, "subscription-worker consumers"
    )
    options = wiring.consumer_options(messaging, consuming, engine, source="/subscription")
    sessions = wiring.sessions(engine)
    accounts = await _accounts(settings, context, Circuits(sessions))
    calling: dict[str, Any] = {
        "timeout": settings.provider_timeout_seconds,
        "redact": context.redact,
    }
    refunder = RefundService(sessions, accounts, **calling)
    schedule = jobs.schedule(timedelta(seconds=settings.renewals_interval_seconds))
    consumers = [
        TransactionalConsumer(
            topology.queue("subscription.billing"),
            handlers.HANDLERS,
            prepare=partial(handlers.prepare, _payers(settings)),
            batch=settings.consumer_batch,
            **options,
        ),
        EffectfulConsumer(
            topology.queue("subscription.refunds"),
            refunder.do,
            concurrency=settings.concurrency,
            on_give_up=refunder.give_up,
            **options,
        ),
        EffectfulConsumer(
            topology.queue("subscription.commands"),
            BillingCommands(
                sessions, accounts, quiet=settings.billing_quiet_seconds, **calling
            ).resume_event,
            concurrency=settings.concurrency,
            **options,
        ),
        TransactionalConsumer(
            topology.queue("subscription.jobs"),
            {"job.run.subscription": job_handler(sessions, schedule)},
            batch=1,
            **options,
        ),
    ]
    scheduler = Scheduler(
        sessions, service="subscription", tenant=settings.operator_tenant, schedule=schedule
    )
    return wiring.worker(
        "Paybus subscription worker", settings, messaging, engine, consumers, tasks=[scheduler]
    )


def _payers(settings: EncryptionSettings) -> Payers:
    return Payers(SecretBox(settings.encryption_keys))


async def _accounts(
    settings: AccountsSettings, context: RoleContext, circuits: Circuits
) -> Accounts:
    http = await context.resources.enter_async_context(
        httpx.AsyncClient(timeout=settings.provider_timeout_seconds)
    )
    try:
        return Accounts(settings.accounts_file, http, context.redact, circuits=circuits)
    except AccountsInvalid as error:
        exit_with_error(f"ACCOUNTS_FILE is wrong: {error}")

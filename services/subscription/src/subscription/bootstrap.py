"""Wires the subscription service."""

from datetime import timedelta
from functools import partial
from typing import Any

import httpx

from common import parts
from common.accounts import AccountsInvalid
from common.api import schedules_router, secure
from common.cache import Cache
from common.circuits import Circuits
from common.contracts import topology
from common.crypto import EncryptionSettings, Vault
from common.figures import figures_router
from common.http import create_app
from common.messaging.effectful import EffectfulConsumer
from common.messaging.transactional import TransactionalConsumer
from common.scheduler import Every, Schedule, Scheduler, job_handler
from common.service import Context, Running, refuse
from subscription import api_billing, commands, handlers, renewals
from subscription.accounts import Accounts
from subscription.api import router
from subscription.checkouts import Checkouts
from subscription.commands import Commands
from subscription.entitlements import Entitling
from subscription.payers import Payers
from subscription.refunds import Refunder
from subscription.settings import AccountsSettings, ApiSettings, WorkerSettings


async def api(settings: ApiSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    app = create_app(
        "Paybus subscription", alive=parts.always_well, ready=parts.database_check(engine)
    )
    secure(app, settings)
    sessions = parts.sessions(engine)
    app.state.sessions = sessions
    app.state.accounts = await _accounts(settings, context, Circuits(sessions))
    calling: dict[str, Any] = {
        "timeout": settings.provider_timeout_seconds,
        "redact": context.redact,
    }
    app.state.checkouts = Checkouts(sessions, app.state.accounts, _payers(settings), **calling)
    quiet = settings.billing_quiet_seconds
    app.state.commands = Commands(sessions, app.state.accounts, quiet=quiet, **calling)
    cache = Cache("entitlements", settings.redis_url)
    context.resources.push_async_callback(cache.close)
    app.state.entitling = Entitling(sessions, cache)
    app.include_router(router)
    app.include_router(api_billing.router)
    app.include_router(schedules_router("subscription", settings.tenant))
    app.include_router(figures_router(settings.tenant, circuits=True))
    return Running(app)


async def worker(settings: WorkerSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    messaging = await parts.messaging(settings, context, "subscription-worker")
    consuming = await parts.consuming(settings, context, messaging, "subscription-worker consumers")
    options = parts.consumer_options(messaging, consuming, engine, source="/subscription")
    sessions = parts.sessions(engine)
    accounts = await _accounts(settings, context, Circuits(sessions))
    calling: dict[str, Any] = {
        "timeout": settings.provider_timeout_seconds,
        "redact": context.redact,
    }
    refunder = Refunder(sessions, accounts, **calling)
    pause = timedelta(seconds=settings.renewals_pause_seconds)
    schedule = [
        *renewals.schedule(pause),
        Schedule("open-commands", Every(pause), commands.run_job),
    ]
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
            Commands(sessions, accounts, quiet=settings.billing_quiet_seconds, **calling).take_up,
            concurrency=settings.concurrency,
            **options,
        ),
        TransactionalConsumer(
            topology.queue("subscription.jobs"),
            {"subscription.job_due": job_handler(sessions, schedule)},
            batch=1,
            **options,
        ),
    ]
    scheduler = Scheduler(
        sessions, service="subscription", tenant=settings.tenant, schedule=schedule
    )
    return parts.worker(
        "Paybus subscription worker", settings, messaging, engine, consumers, tasks=[scheduler]
    )


def _payers(settings: EncryptionSettings) -> Payers:
    return Payers(Vault(settings.encryption_keys))


async def _accounts(settings: AccountsSettings, context: Context, circuits: Circuits) -> Accounts:
    http = await context.resources.enter_async_context(
        httpx.AsyncClient(timeout=settings.provider_timeout_seconds)
    )
    try:
        return Accounts(settings.accounts_file, http, context.redact, circuits=circuits)
    except AccountsInvalid as error:
        refuse(f"ACCOUNTS_FILE is wrong: {error}")

"""Wire the subscription service's API and worker."""

from datetime import timedelta
from functools import partial
from typing import Any

import httpx

from common.clients.accounts_file import AccountsInvalid
from common.contracts import topology
from common.messaging.effect_consumer import EffectfulConsumer
from common.messaging.transactional_consumer import TransactionalConsumer
from common.resilience.cache import Cache
from common.resilience.circuit_store import Circuits
from common.runtime import wiring
from common.runtime.service import RoleContext, RoleProcess, exit_with_error
from common.security.encryption import EncryptionSettings, SecretBox
from subscription import handlers, jobs
from subscription.api import billing, subscriptions
from subscription.billing.commands import BillingCommands
from subscription.checkouts.payers import Payers
from subscription.checkouts.refunds import RefundService
from subscription.checkouts.service import CheckoutService
from subscription.domain import SOURCE
from subscription.providers.registry import Accounts
from subscription.settings import AccountsSettings, ApiSettings, WorkerSettings
from subscription.subscriptions.entitlements import EntitlementService


async def api(settings: ApiSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    sessions = wiring.sessions(engine)
    accounts = await _accounts(settings, context, Circuits(sessions))
    calling = _calling(settings, context)
    cache = Cache("entitlements", settings.redis_url)
    context.resources.push_async_callback(cache.close)
    return wiring.api(
        "Paybus subscription",
        settings,
        engine,
        [subscriptions.router, billing.router],
        service=jobs.SERVICE,
        parts=[
            accounts,
            CheckoutService(sessions, accounts, _payers(settings), **calling),
            BillingCommands(sessions, accounts, quiet=settings.billing_quiet_seconds, **calling),
            EntitlementService(sessions, cache),
        ],
        has_circuits=True,
    )


async def worker(settings: WorkerSettings, context: RoleContext) -> RoleProcess:
    engine = await wiring.database_engine(settings, context)
    messaging = await wiring.messaging(settings, context, "subscription-worker")
    consuming = await wiring.consuming(
        settings, context, messaging, "subscription-worker consumers"
    )
    options = wiring.consumer_options(messaging, consuming, engine, source=SOURCE)
    sessions = wiring.sessions(engine)
    accounts = await _accounts(settings, context, Circuits(sessions))
    calling = _calling(settings, context)
    refunds = RefundService(sessions, accounts, **calling)
    commands = BillingCommands(sessions, accounts, quiet=settings.billing_quiet_seconds, **calling)
    schedule = jobs.schedule(timedelta(seconds=settings.renewals_interval_seconds))
    job_consumer, scheduler = wiring.jobs(jobs.SERVICE, schedule, settings.operator_tenant, options)
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
            refunds.process,
            concurrency=settings.concurrency,
            on_give_up=refunds.give_up,
            **options,
        ),
        EffectfulConsumer(
            topology.queue("subscription.commands"),
            commands.resume_event,
            concurrency=settings.concurrency,
            **options,
        ),
        job_consumer,
    ]
    return wiring.worker(
        "Paybus subscription worker", settings, messaging, engine, consumers, [scheduler]
    )


def _calling(settings: AccountsSettings, context: RoleContext) -> dict[str, Any]:
    return {"timeout": settings.provider_timeout_seconds, "redact": context.redact}


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

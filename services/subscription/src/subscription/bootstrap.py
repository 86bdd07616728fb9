"""Wires the subscription service."""

from common import parts
from common.auth import Authenticator
from common.contracts import topology
from common.http import create_app
from common.messaging.transactional import TransactionalConsumer
from common.service import Context, Running
from subscription import handlers
from subscription.api import router
from subscription.settings import ApiSettings, WorkerSettings


async def api(settings: ApiSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    app = create_app(
        "Paybus subscription", alive=parts.always_well, ready=parts.database_check(engine)
    )
    app.state.authenticator = Authenticator(settings)
    app.state.sessions = parts.sessions(engine)
    app.include_router(router)
    return Running(app)


async def worker(settings: WorkerSettings, context: Context) -> Running:
    engine = await parts.database_engine(settings, context)
    messaging = await parts.messaging(settings, context, "subscription-worker")
    consuming = await parts.consuming(settings, context, messaging, "subscription-worker consumers")
    billing = TransactionalConsumer(
        topology.queue("subscription.billing"),
        handlers.HANDLERS,
        prepare=handlers.prepare,
        batch=settings.consumer_batch,
        **parts.consumer_options(messaging, consuming, engine, source="/subscription"),
    )
    return parts.worker("Paybus subscription worker", settings, messaging, engine, [billing])

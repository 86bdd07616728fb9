"""Polls the broker for messages and consumers of each queue, and declares missing exchanges and
queues, because other services' logins may not."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy.exc
from aiormq.exceptions import ChannelNotFoundEntity

from common.background import PeriodicTask
from common.contracts import topology
from common.contracts.retry_ladder import RetryLadder
from common.db.database import Sessions
from common.errors import Unavailable, describe
from common.messaging.connection import BrokerConnection, broker_errors
from common.observability.logging import get_logger
from operations import metrics
from operations.repository import monitoring as repository

log = get_logger(__name__)

_PAUSE_SECONDS = 5.0
_WITHIN_SECONDS = 5.0


class QueueMonitor(PeriodicTask):
    """Runs in every worker; all write the same figures."""

    def __init__(self, sessions: Sessions, broker: BrokerConnection, ladder: RetryLadder) -> None:
        self._sessions = sessions
        self._broker = broker
        self._names = [
            *(name for each in topology.QUEUES for name in (each.name, each.dead)),
            topology.WEBHOOKS.dead,
            *(rung.queue for rung in ladder.rungs),
        ]
        super().__init__(_PAUSE_SECONDS)

    async def step(self) -> bool:
        try:
            await self._broker.declare(missing=False)
            await self._save(await self._ask())
        except (Unavailable, sqlalchemy.exc.SQLAlchemyError) as error:
            log.info("queue_stats_failed", error=describe(error))
            metrics.queue_messages.clear()  # outdated figures must not look current
            metrics.queue_consumers.clear()
        return False

    async def _ask(self) -> Mapping[str, tuple[int, int]]:
        """Return waiting messages and consumers by queue; missing queues are left out."""
        found = {}
        channel = await self._broker.channel(confirms=False, within=_WITHIN_SECONDS)
        try:
            for name in self._names:
                with broker_errors("a queue can't be looked at"):
                    underlay = await channel.get_underlay_channel()
                    try:
                        said = await underlay.queue_declare(name, passive=True)
                    except ChannelNotFoundEntity:
                        await channel.close()
                        channel = await self._broker.channel(confirms=False, within=1)
                        continue
                found[name] = (said.message_count or 0, said.consumer_count or 0)
        finally:
            await channel.close()
        return found

    async def _save(self, found: Mapping[str, tuple[int, int]]) -> None:
        async with self._sessions.begin() as session:
            await repository.save_queue_stats(session, found)
        for name, (messages, consumers) in found.items():
            metrics.queue_messages.labels(name).set(messages)
            metrics.queue_consumers.labels(name).set(consumers)

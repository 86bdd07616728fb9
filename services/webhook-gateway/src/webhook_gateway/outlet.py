"""The gateway's way to the broker, and around it while it does not confirm."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from common.errors import Unavailable
from common.logs import get_logger
from common.messaging.connection import Broker, describe
from common.messaging.publisher import Publisher, Unroutable
from webhook_gateway.spool import Spool, Spooled

log = get_logger(__name__)

_LOOK_SECONDS = 0.5


class Outlet:
    """Publishes, or spools what the broker does not confirm; and hands the spool on when it does.

    Without a spool it is the publisher alone.
    """

    def __init__(self, broker: Broker, publisher: Publisher, spool: Spool | None) -> None:
        self._broker = broker
        self._publisher = publisher
        self._spool = spool
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    @property
    def connected(self) -> bool:
        return self._broker.connected

    async def spool_state(self) -> dict[str, Any]:
        """For people: how much waits, and for how long."""
        if self._spool is None:
            return {"used": False}
        waiting, since = await self._spool.measure()
        return {"used": True, "waiting": waiting, "full": self._spool.full, "oldest_at": since}

    async def check(self) -> str | None:
        """Whether webhooks can be taken in, for readiness."""
        if self._broker.connected:
            return None
        if self._spool is None:
            return "RabbitMQ is not connected"
        return "RabbitMQ is not connected, and the spool is full" if self._spool.full else None

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        content_type: str,
    ) -> bool:
        """Return when the message is safe: True by the broker's confirm, False in the spool.

        Raises `Unavailable` when it is neither.
        """
        if self._spool is None or self._broker.connected:
            try:
                await self._publisher.publish(
                    exchange, routing_key, body, headers=headers, content_type=content_type
                )
            except Unavailable:
                if self._spool is None:
                    raise
            else:
                return True
        await self._spool.add(Spooled(exchange, routing_key, body, headers or {}, content_type))
        return False

    async def run(self) -> None:
        """Hand on what waits, in its order, whenever the broker is there."""
        spool = self._spool
        while not self._stop.is_set():
            if spool is not None:
                try:
                    if (await spool.measure())[0] and self._broker.connected:
                        await self._hand_on(spool)
                except (sqlite3.Error, OSError) as error:
                    log.error("the spool can't be read", error=describe(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _LOOK_SECONDS)

    async def _hand_on(self, spool: Spool) -> None:
        """Once through the spool. What no queue takes now stays, and holds up nothing behind it."""
        position = handed = kept = 0
        while not self._stop.is_set() and (batch := await spool.after(position)):
            outcomes = await asyncio.gather(
                *(self._confirm(message) for _, message in batch), return_exceptions=True
            )
            confirmed = [
                each for (each, _), outcome in zip(batch, outcomes, strict=True) if not outcome
            ]
            # A crash before this publishes again; the consumers' inboxes make that harmless.
            await spool.remove(confirmed)
            handed += len(confirmed)
            kept += len(batch) - len(confirmed)
            position = batch[-1][0]
            failed = [each for each in outcomes if each and not isinstance(each, Unroutable)]
            if failed:
                log.warning("the spool waits", error=describe(failed[0]))
                break
        if handed or kept:
            log.info("went through the spool", handed_on=handed, kept=kept)

    async def _confirm(self, message: Spooled) -> None:
        await self._publisher.publish(
            message.exchange,
            message.routing_key,
            message.body,
            headers=message.headers,
            content_type=message.content_type,
        )

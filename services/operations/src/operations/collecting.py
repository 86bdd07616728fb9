"""Takes dead letters from the broker. Each is acknowledged after it is stored, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from common import metrics
from common.contracts.topology import Queue
from common.crypto import Vault
from common.logs import get_logger
from common.messaging.connection import describe
from common.messaging.consumer import Consumer, Stop
from common.messaging.delivery import Delivery
from common.messaging.retry import Kind, classify
from common.redaction import Redactor
from operations import filing, letters
from operations.letters import DeadLetter

log = get_logger(__name__)


class Collector(Consumer):
    """One queue's dead letters."""

    def __init__(self, of: Queue, vault: Vault, *, batch: int = 100, **options: Any) -> None:
        super().__init__(Queue(of.dead), prefetch=batch, **options)
        self._vault = vault
        self._redact: Redactor = options["redact"]
        self._of = of
        self._batch = batch

    async def _after_cancel(self) -> None:
        """A queue of dead letters that was deleted can't be refilled: the journal knows none."""
        self._order_refill = False

    async def _work(self) -> None:
        while True:
            await self._arrivals()
            if self._stopping:
                return
            batch = self._take(self._batch)
            await self._store(batch)
            await self._acknowledge(batch[-1], multiple=True)

    async def _store(self, batch: Sequence[Delivery]) -> None:
        now = datetime.now(UTC)
        read: list[DeadLetter] = []
        for each in batch:
            read.append(letters.read(self._of.name, each.body, each.headers, now, self._redact))
            await asyncio.sleep(0)  # a large one takes a while: others have their turn
        await self._through_outages(partial(self._file, read))
        metrics.consumed.labels(self.queue.name, "done").inc(len(batch))

    async def _file(self, read: Sequence[DeadLetter]) -> None:
        try:
            async with self._sessions.begin() as session:
                await filing.file(session, read, self._vault)
        except Stop:
            raise
        except Exception as error:
            if classify(error) is Kind.OUTAGE:
                raise
            if len(read) == 1:
                log.exception("a dead letter can't be stored as it is", queue=self.queue.name)
                async with self._sessions.begin() as session:
                    await filing.file(session, [letters.bare(read[0])], self._vault)
                return
            log.info("storing each alone", size=len(read), error=describe(error))
            for each in read:
                await self._file([each])

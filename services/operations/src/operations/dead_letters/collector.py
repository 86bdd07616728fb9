"""Moves dead letters from the broker to the database; each is acknowledged after it is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from common.contracts.topology import Queue
from common.error_policy import ErrorKind, classify
from common.errors import describe
from common.messaging.consumer import Consumer, ConsumerStopped
from common.messaging.delivery import Delivery
from common.observability import metrics
from common.observability.logging import get_logger
from common.observability.redaction import Redactor
from common.security.encryption import SecretBox
from operations.dead_letters import parser, store
from operations.dead_letters.parser import ParsedDeadLetter

log = get_logger(__name__)


class DeadLetterCollector(Consumer):
    """Collects the dead letters of one queue."""

    def __init__(self, of: Queue, vault: SecretBox, *, batch: int = 100, **options: Any) -> None:
        super().__init__(Queue(of.dead), prefetch=batch, **options)
        self._vault = vault
        self._redact: Redactor = options["redact"]
        self._of = of
        self._batch = batch

    async def _after_cancel(self) -> None:
        """Request no refill: the journal has no dead letters from which to refill this queue."""
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
        read: list[ParsedDeadLetter] = []
        for each in batch:
            what = (self._of.name, each.body, each.headers, now, self._redact)
            read.append(await asyncio.to_thread(parser.parse, *what))  # a large one takes a while
        await self._through_outages(partial(self._file, read))
        metrics.consumed.labels(self.queue.name, "done").inc(len(batch))

    async def _file(self, read: Sequence[ParsedDeadLetter]) -> None:
        try:
            async with self._sessions.begin() as session:
                await store.save(session, read, self._vault)
        except ConsumerStopped:
            raise
        except Exception as error:
            if classify(error) is ErrorKind.OUTAGE:
                raise
            if len(read) == 1:
                log.exception("dead_letter_save_failed", queue=self.queue.name)
                async with self._sessions.begin() as session:
                    await store.save(session, [parser.minimal(read[0])], self._vault)
                return
            log.info("dead_letter_batch_failed_splitting", size=len(read), error=describe(error))
            for each in read:
                await self._file([each])

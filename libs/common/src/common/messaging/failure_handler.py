"""Handling of a failed message: another attempt later, or the queue's dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

from common.contracts.event import DecodeError, Event
from common.contracts.retry_ladder import RetryLadder
from common.contracts.topology import GIVEN_UP, Queue
from common.db.database import Sessions
from common.error_policy import ErrorKind, classify
from common.errors import describe
from common.messaging import dead_letter
from common.messaging.delivery import Delivery
from common.messaging.outbox import UnitOfWork
from common.messaging.publisher import Publisher
from common.messaging.retry import GiveUp, Retry, plan
from common.observability import metrics
from common.observability.logging import get_logger, handling
from common.observability.redaction import Redactor

log = get_logger(__name__)

OnGiveUp = Callable[[UnitOfWork, Event[Any], BaseException], Awaitable[None]]


class FailureHandler:
    """Handler of the failed messages of one queue. `attempts` includes the first one.

    When they are exhausted, or the error is permanent, `on_give_up` runs in its own transaction (it
    must be safe to run twice); then the message is dead-lettered.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        publisher: Publisher,
        sessions: Sessions,
        ladder: RetryLadder,
        redact: Redactor,
        source: str,
        attempts: int,
        on_give_up: OnGiveUp | None,
    ) -> None:
        self._queue = queue
        self._publisher = publisher
        self._sessions = sessions
        self._ladder = ladder
        self._redact = redact
        self._source = source
        self._attempts = attempts
        self._on_give_up = on_give_up

    async def handle(self, delivery: Delivery, error: BaseException) -> None:
        """Return when the broker has the message elsewhere, so that it may be acknowledged.

        Raise what is classified as an outage; the call may then be repeated.
        """
        with handling(delivery.event) if delivery.event is not None else nullcontext():
            decision = plan(
                self._ladder,
                attempt=delivery.failures.attempt,
                attempts=self._attempts,
                error=error,
            )
            if isinstance(decision, GiveUp):
                reason = "undecodable" if isinstance(error, DecodeError) else decision.reason
                await self._give_up(delivery, reason, error)
            else:
                await self._try_later(delivery, decision, error)

    async def _try_later(self, delivery: Delivery, retry: Retry, error: BaseException) -> None:
        failures, outcome = delivery.failures, "deferred"
        if retry.attempt != failures.attempt:  # failed, not only deferred
            failures, outcome = failures.with_error(error, self._redact), "retried"
            metrics.retries.labels(self._queue.name, str(failures.attempt)).inc()
            log.warning(
                "message_retry_scheduled",
                queue=self._queue.name,
                attempt=failures.attempt,
                again_in_seconds=retry.rung.seconds,
                error=describe(error),
            )
        await self._publisher.publish(
            retry.rung.exchange,
            self._queue.name,
            delivery.body,
            headers=delivery.kept_headers | failures.headers(attempt=retry.attempt),
        )
        metrics.consumed.labels(self._queue.name, outcome).inc()

    async def _give_up(self, delivery: Delivery, reason: str, error: BaseException) -> None:
        if self._on_give_up is not None and delivery.event is not None:
            await self._tell_given_up(self._on_give_up, delivery.event, error)
        failures = delivery.failures.with_error(error, self._redact)
        await self._publisher.publish(
            GIVEN_UP,
            self._queue.name,
            delivery.body,
            headers=delivery.kept_headers
            | dead_letter.headers(
                failures, queue=self._queue.name, reason=reason, error=error, redact=self._redact
            ),
        )
        metrics.consumed.labels(self._queue.name, "dead_lettered").inc()
        log.error(
            "message_dead_lettered",
            queue=self._queue.name,
            dead_letters=self._queue.dead,
            reason=reason,
            attempts=failures.attempt,
            error=describe(error),
        )

    async def _tell_given_up(
        self, on_give_up: OnGiveUp, event: Event[Any], error: BaseException
    ) -> None:
        try:
            async with self._sessions.begin() as session:
                work = UnitOfWork(session, self._source)
                await on_give_up(work, event, error)
                await work.flush()
        except Exception as failure:
            if classify(failure) is ErrorKind.OUTAGE:
                raise
            # The dead letter matters more: without it the message would be redelivered forever.
            log.exception("give_up_record_failed", queue=self._queue.name)

"""Asks providers about the payments whose outcome is open, and tells what they say.

Webhook and poll share this path: a hint only moves the next question to now. So either may come
first, and what is told of a payment has one id whichever it was.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import sqlalchemy.exc

from common import rows
from common.contracts.event import Event, derived_id
from common.contracts.payments import Contact, PaymentReported
from common.database import Sessions
from common.errors import RateLimited
from common.logs import get_logger
from common.messaging import outbox
from common.messaging.connection import describe
from common.outside import excerpt, plain
from common.redaction import Redactor
from webhook_gateway import domain, metrics, repository
from webhook_gateway.asking import Answer, AskedProvider, Question
from webhook_gateway.domain import Standing, Step, Watch
from webhook_gateway.models import WatchedPayment
from webhook_gateway.providers import Proof
from webhook_gateway.repository import Pending
from webhook_gateway.routes import Routes

log = get_logger(__name__)

_LOOK_SECONDS = 0.5
_TIDY_SECONDS = 600.0
_COUNT_SECONDS = 5.0
_LEASE_MARGIN_SECONDS = 20  # an answer's transactions, with the waits that they may have
_UNASKABLE = (
    "nobody asks about these payments: the endpoints file must have their endpoint, for their "
    "tenant and with credentials"
)
_KEEP_HINTS = timedelta(hours=1)

_TYPES = {
    Standing.SUCCEEDED: "payment.succeeded",
    Standing.FAILED: "payment.failed",
    Standing.EXPIRED: "payment.expired",
}
_ASKED = Proof("requery")


class Asker:
    """One runs in every worker. `per_second` and `burst` bound what one endpoint's provider is
    asked by all of them together; `at_once` what waits for one provider in this process,
    `timeout` (seconds) how long."""

    def __init__(
        self,
        sessions: Sessions,
        routes: Routes,
        *,
        redact: Redactor,
        per_second: float,
        burst: int,
        at_once: int,
        timeout: float,
    ) -> None:
        self._sessions = sessions
        self._routes = routes
        self._redact = redact
        self._per_second = per_second
        self._burst = burst
        self._at_once = at_once
        self._timeout = timeout
        self._lease = timedelta(seconds=timeout + _LEASE_MARGIN_SECONDS)
        self._wake = asyncio.Event()
        self._stopping = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._waiting: Counter[str] = Counter()
        self._unaskable: dict[tuple[str, str], int] = {}  # as it was logged

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        tidied = counted = 0.0
        loop = asyncio.get_running_loop()
        async with httpx.AsyncClient(timeout=self._timeout) as http:
            while not self._stopping:
                self._wake.clear()
                for provider in self._asked_providers():
                    try:
                        await self._begin(http, provider)
                    except Exception as error:  # noqa: BLE001 - the others are still asked
                        path = provider.endpoint.path
                        log.warning("can't look what to ask", endpoint=path, error=describe(error))
                try:
                    if loop.time() - tidied > _TIDY_SECONDS:
                        await self._tidy()
                        tidied = loop.time()
                    if loop.time() - counted > _COUNT_SECONDS:
                        await self._count()
                        counted = loop.time()
                except sqlalchemy.exc.SQLAlchemyError as error:
                    log.warning("can't tidy up", error=describe(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _LOOK_SECONDS)
            await asyncio.gather(*self._under_way, return_exceptions=True)

    def _asked_providers(self) -> list[AskedProvider]:
        return [
            each
            for each in self._routes.all()
            if isinstance(each, AskedProvider) and each.can_be_asked
        ]

    async def _begin(self, http: httpx.AsyncClient, provider: AskedProvider) -> None:
        path = provider.endpoint.path
        free = self._at_once - self._waiting[path]
        if free <= 0:
            return  # a slow provider holds up itself, and no other
        async with self._sessions.begin() as session:
            claimed = await repository.claim(
                session,
                provider.name,
                provider.endpoint.name,
                tenant=provider.endpoint.tenant,
                per_second=self._per_second,
                burst=self._burst,
                most=free,
                lease=self._lease,
            )
        for row in claimed:
            self._waiting[path] += 1
            task = asyncio.create_task(self._ask(http, provider, row))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _ask(
        self, http: httpx.AsyncClient, provider: AskedProvider, row: WatchedPayment
    ) -> None:
        try:
            await self._settle(provider, row, await self._answer(http, provider, row))
        except Exception as error:  # noqa: BLE001 - it is asked again when its lease ends
            log.warning("an answer is not recorded", provider=provider.name, error=describe(error))
        finally:
            self._waiting[provider.endpoint.path] -= 1

    async def _answer(
        self, http: httpx.AsyncClient, provider: AskedProvider, row: WatchedPayment
    ) -> Answer | str:
        """The provider's answer, or why there is none."""
        outcome = "failed"
        try:
            async with asyncio.timeout(self._timeout):
                answer = await provider.ask(http, Question(row.reference, row.lookup))
            outcome = answer.standing.value
        except RateLimited as error:
            async with self._sessions.begin() as session:
                path = provider.endpoint.path
                await repository.hold_back(session, path, error.retry_after, self._per_second)
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever it says is no answer
            return excerpt(self._redact(describe(error)))
        else:
            return answer
        finally:
            metrics.questions.labels(provider.name, outcome).inc()

    async def _settle(
        self, provider: AskedProvider, asked: WatchedPayment, answer: Answer | str
    ) -> None:
        """`asked` is the payment as it was when the question began."""
        async with self._sessions.begin() as session:
            row = await repository.lock(session, asked.id)
            if row is None:
                return
            # A hint that came meanwhile wants a question that begins after it.
            sooner = row.ask_at if row.ask_at != asked.ask_at else None
            step, event, error = self._conclude(provider, row, answer, await rows.clock(session))
            row.error = error
            row.ask_at = step.ask_at
            if sooner is not None and Standing.SUCCEEDED not in {step.tell, Standing(row.told)}:
                row.ask_at = min(sooner, step.ask_at or sooner)
            if step.tell is not None and event is not None:
                row.told = step.tell
                await outbox.write(session, [event])
        if error is not None:
            log.warning("no answer", provider=provider.name, payment=asked.id, error=error)
            if step.ask_at is None:
                log.error("given up without an answer", payment=asked.id, error=error)
        if step.tell is None:
            return
        healed = step.tell is Standing.SUCCEEDED and row.hinted_at is None
        if healed:
            metrics.healed.labels(provider.name).inc()
        log.info("payment told", provider=provider.name, standing=step.tell, healed=healed)

    def _conclude(
        self, provider: AskedProvider, row: WatchedPayment, answer: Answer | str, now: datetime
    ) -> tuple[Step, Event[Any] | None, str | None]:
        """What to do, the event to tell, and why there is no answer that can be told."""
        watch = Watch(row.announced, row.expires_at, row.asked, Standing(row.told))
        if not isinstance(answer, str):
            step = domain.step(
                watch, answer.standing, now, failure_is_final=provider.failure_is_final
            )
            if step.tell is None:
                return step, None, None
            # What is only for people to read must not keep a payment from being told.
            bare = replace(answer, reason=None, contact=Contact())
            for told in (answer, bare):
                try:
                    return step, _event(provider, row, step.tell, told), None
                except (ValueError, TypeError) as error:
                    fault = f"its answer can't be told: {excerpt(self._redact(describe(error)))}"
            answer = fault
        step = domain.unanswered(watch, now)
        event = _event(provider, row, step.tell, Answer(step.tell)) if step.tell else None
        return step, event, answer

    async def _tidy(self) -> None:
        async with self._sessions.begin() as session:
            await repository.forget_hints(session, _KEEP_HINTS)

    async def _count(self) -> None:
        pending = await self.pending()
        metrics.watched.clear()
        metrics.unaskable.clear()
        for each in pending:
            metrics.watched.labels(each.provider).inc(each.payments)
            if self._is_asked(each):
                continue
            metrics.unaskable.labels(each.provider).inc(each.payments)
            whose = (each.tenant, f"{each.provider}/{each.endpoint}")
            if self._unaskable.get(whose) != each.payments:
                self._unaskable[whose] = each.payments
                log.error(_UNASKABLE, tenant=whose[0], endpoint=whose[1], payments=each.payments)

    async def pending(self) -> Sequence[Pending]:
        async with self._sessions() as session:
            return await repository.pending(session)

    def _is_asked(self, pending: Pending) -> bool:
        return any(
            (each.endpoint.tenant, each.name, each.endpoint.name)
            == (pending.tenant, pending.provider, pending.endpoint)
            for each in self._asked_providers()
        )

    async def health(self) -> Sequence[Mapping[str, Any]]:
        """For people: what is to be asked about, since when, and whether it is."""
        return [
            {
                "tenant": each.tenant,
                "endpoint": f"{each.provider}/{each.endpoint}",
                "pending": each.payments,
                "oldest_at": each.oldest_at,
                "last_question_failed": each.errors,
                "asked": self._is_asked(each),
            }
            for each in await self.pending()
        ]


def _event(
    provider: AskedProvider, row: WatchedPayment, standing: Standing, answer: Answer
) -> Event[Any]:
    # Of what expired unasked, or unknown to the provider, we know what we wanted.
    known = bool(answer.currency)
    event = provider.event(
        _TYPES[standing],
        PaymentReported(
            provider=provider.name,
            payment_id=row.reference,
            references=sorted(answer.references),
            customer_id=None,
            contact=answer.contact,
            amount=answer.amount if known else row.amount,
            currency=answer.currency if known else row.currency,
            reason=plain(answer.reason) if answer.reason else None,
        ),
        id_=derived_id(provider.source, row.reference, standing),
        subject=row.reference,
        proof=_ASKED,
    )
    return event.model_copy(
        update={"correlationid": row.correlation_id, "causationid": row.cause_id}
    )

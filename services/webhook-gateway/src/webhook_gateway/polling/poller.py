"""Asks providers about the payments whose outcome is open, and tells what they say.

Webhook and poll share this path: a hint only moves the next question to now. So either may come
first, and what is told of a payment has one id whichever it was.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import httpx
import sqlalchemy.exc

from common.clients.json_api import excerpt, strip_nul
from common.contracts.event import Event, derived_id
from common.contracts.payments import Contact, PaymentOutcome
from common.db import tenant_rows
from common.db.database import Sessions
from common.errors import RateLimited, describe
from common.messaging import outbox
from common.observability.logging import get_logger
from common.observability.redaction import Redactor
from webhook_gateway import domain, metrics, repository
from webhook_gateway.domain import PaymentStatus, PollState, Step
from webhook_gateway.models import PendingPayment
from webhook_gateway.providers.base import Authentication
from webhook_gateway.providers.endpoint_registry import EndpointRegistry
from webhook_gateway.providers.pollable import PaymentQuery, PaymentStatusResult, PollableProvider
from webhook_gateway.repository import PendingPaymentCount

log = get_logger(__name__)

_LOOK_SECONDS = 0.5
_TIDY_SECONDS = 600.0
_COUNT_SECONDS = 5.0
_LEASE_MARGIN_SECONDS = 20  # an answer's transactions, with the waits that they may have
_UNPOLLABLE_HINT = (
    "the endpoints file must have the payments' endpoint, for their tenant and with credentials"
)
_KEEP_HINTS = timedelta(hours=1)

_TYPES = {
    PaymentStatus.SUCCEEDED: "payment.succeeded",
    PaymentStatus.FAILED: "payment.failed",
    PaymentStatus.EXPIRED: "payment.expired",
}
_ASKED = Authentication("requery")

_Said = TypeVar("_Said", PaymentStatusResult, Sequence[PaymentStatusResult])


class PaymentPoller:
    """One runs in every worker. `rate_per_second` and `burst` bound what one endpoint's provider is
    asked by all of them together; `max_concurrency` what waits for one provider in this process,
    `timeout` (seconds) how long."""

    def __init__(
        self,
        sessions: Sessions,
        routes: EndpointRegistry,
        *,
        redact: Redactor,
        rate_per_second: float,
        burst: int,
        max_concurrency: int,
        timeout: float,
    ) -> None:
        self._sessions = sessions
        self._routes = routes
        self._redact = redact
        self._per_second = rate_per_second
        self._burst = burst
        self._at_once = max_concurrency
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
                        log.warning(
                            "payment_poll_claim_failed", endpoint=path, error=describe(error)
                        )
                try:
                    if loop.time() - tidied > _TIDY_SECONDS:
                        await self._tidy()
                        tidied = loop.time()
                    if loop.time() - counted > _COUNT_SECONDS:
                        await self._count()
                        counted = loop.time()
                except sqlalchemy.exc.SQLAlchemyError as error:
                    log.warning("payment_cleanup_failed", error=describe(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _LOOK_SECONDS)
            await asyncio.gather(*self._under_way, return_exceptions=True)

    def _asked_providers(self) -> list[PollableProvider]:
        return [
            each
            for each in self._routes.all()
            if isinstance(each, PollableProvider) and each.can_be_asked
        ]

    async def _begin(self, http: httpx.AsyncClient, provider: PollableProvider) -> None:
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
                rate_per_second=self._per_second,
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
        self, http: httpx.AsyncClient, provider: PollableProvider, row: PendingPayment
    ) -> None:
        question = PaymentQuery(row.reference, row.lookup)
        try:
            if row.told == PaymentStatus.SUCCEEDED:
                found = await self._answer(provider, provider.charges(http, question))
                await self._settle_charges(provider, row, found)
            else:
                answer = await self._answer(provider, provider.ask(http, question))
                await self._settle(provider, row, answer)
        except Exception as error:  # noqa: BLE001 - it is asked again when its lease ends
            log.warning(
                "provider_answer_not_recorded", provider=provider.name, error=describe(error)
            )
        finally:
            self._waiting[provider.endpoint.path] -= 1

    async def _answer(self, provider: PollableProvider, asking: Awaitable[_Said]) -> _Said | str:
        """The provider's answer, or why there is none."""
        outcome = "failed"
        try:
            async with asyncio.timeout(self._timeout):
                answer = await asking
            outcome = (
                answer.standing.value if isinstance(answer, PaymentStatusResult) else "charges"
            )
        except RateLimited as error:
            async with self._sessions.begin() as session:
                path = provider.endpoint.path
                await repository.delay_polls(session, path, error.retry_after, self._per_second)
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever it says is no answer
            return excerpt(describe(error), self._redact)
        else:
            return answer
        finally:
            metrics.questions.labels(provider.name, outcome).inc()

    async def _settle(
        self, provider: PollableProvider, asked: PendingPayment, answer: PaymentStatusResult | str
    ) -> None:
        """`asked` is the payment as it was when the question began."""
        async with self._sessions.begin() as session:
            row = await repository.lock(session, asked.id)
            if row is None:
                return
            # A hint that came meanwhile wants a question that begins after it.
            sooner = row.ask_at if row.ask_at != asked.ask_at else None
            now = await tenant_rows.database_now(session)
            step, event, error = self._conclude(provider, row, answer, now)
            row.error = error
            row.ask_at = step.ask_at
            paid = PaymentStatus.SUCCEEDED in {step.tell, PaymentStatus(row.told)}
            if paid and provider.charges_again:
                row.ask_at = domain.look_again(_watch(row), now)
            if sooner is not None and (not paid or provider.charges_again):
                row.ask_at = min(sooner, row.ask_at or sooner)
            if step.tell is not None and event is not None:
                row.told = step.tell
                if paid and isinstance(answer, PaymentStatusResult) and answer.charge is not None:
                    row.charges = sorted({*row.charges, answer.charge})
                await outbox.enqueue(session, [event])
        if error is not None:
            log.warning(
                "payment_poll_failed", provider=provider.name, payment=asked.id, error=error
            )
            if step.ask_at is None:
                log.error("payment_polling_abandoned", payment=asked.id, error=error)
        elif row.announced and step.ask_at is None and _is_pending(answer):
            log.error(
                "pending_payment_abandoned",
                hint="the provider says that it is pending: look there",
                provider=provider.name,
                payment=asked.id,
            )
        if step.tell is None:
            return
        healed = step.tell is PaymentStatus.SUCCEEDED and row.hinted_at is None
        if healed:
            metrics.healed.labels(provider.name).inc()
        log.info(
            "payment_status_published", provider=provider.name, standing=step.tell, healed=healed
        )

    async def _settle_charges(
        self,
        provider: PollableProvider,
        asked: PendingPayment,
        found: Sequence[PaymentStatusResult] | str,
    ) -> None:
        """Of a payment that was told to have succeeded: what was paid once more has to go back."""
        events: list[Event[Any]] = []
        async with self._sessions.begin() as session:
            row = await repository.lock(session, asked.id)
            if row is None:
                return
            now = await tenant_rows.database_now(session)
            sooner = row.ask_at if row.ask_at != asked.ask_at else None
            if not isinstance(found, str):
                try:
                    events = _duplicates(provider, row, found, now)
                except (ValueError, TypeError) as error:
                    found = f"its answer can't be told: {excerpt(describe(error), self._redact)}"
            if isinstance(found, str):
                row.error, row.ask_at = found, domain.on_no_result(_watch(row), now).ask_at
            else:
                row.error, row.ask_at = None, domain.look_again(_watch(row), now)
                row.charges = sorted({*row.charges, *(each.charge or "" for each in found)})
            if sooner is not None:
                row.ask_at = min(sooner, row.ask_at or sooner)
            await outbox.enqueue(session, events)
        if isinstance(found, str):
            log.warning(
                "payment_poll_failed", provider=provider.name, payment=asked.id, error=found
            )
            if row.ask_at is None:
                log.error(
                    "second_payment_unknown",
                    hint="look at the provider",
                    payment=asked.id,
                    error=found,
                )
        for event in events:
            metrics.duplicated.labels(provider.name).inc()
            log.error(
                "payment_received_twice",
                hint="refund it; an order's by its refund",
                provider=provider.name,
                payment=asked.id,
                charge=event.data.payment_id,
            )

    def _conclude(
        self,
        provider: PollableProvider,
        row: PendingPayment,
        answer: PaymentStatusResult | str,
        now: datetime,
    ) -> tuple[Step, Event[Any] | None, str | None]:
        """What to do, the event to tell, and why there is no answer that can be told."""
        watch = _watch(row)
        if not isinstance(answer, str):
            step = domain.on_result(
                watch, answer.standing, now, failure_is_final=provider.failure_is_final
            )
            if step.tell is None:
                return step, None, None
            # What is only for people to read must not keep a payment from being told.
            bare = replace(answer, reason=None, contact=Contact())
            for told in (answer, bare):
                try:
                    return step, _event(provider, row, step.tell, told, now), None
                except (ValueError, TypeError) as error:
                    fault = f"its answer can't be told: {excerpt(describe(error), self._redact)}"
            answer = fault
        step = domain.on_no_result(watch, now)
        event = (
            _event(provider, row, step.tell, PaymentStatusResult(step.tell), now)
            if step.tell
            else None
        )
        return step, event, answer

    async def _tidy(self) -> None:
        async with self._sessions.begin() as session:
            await repository.delete_stale_notifications(session, _KEEP_HINTS)

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
                log.error(
                    "payments_unpollable",
                    hint=_UNPOLLABLE_HINT,
                    tenant=whose[0],
                    endpoint=whose[1],
                    payments=each.payments,
                )

    async def pending(self) -> Sequence[PendingPaymentCount]:
        async with self._sessions() as session:
            return await repository.pending(session)

    def _is_asked(self, pending: PendingPaymentCount) -> bool:
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


def _is_pending(answer: PaymentStatusResult | str) -> bool:
    return isinstance(answer, PaymentStatusResult) and answer.standing is PaymentStatus.PENDING


def _watch(row: PendingPayment) -> PollState:
    return PollState(row.announced, row.expires_at, row.asked, PaymentStatus(row.told))


def _event(
    provider: PollableProvider,
    row: PendingPayment,
    standing: PaymentStatus,
    answer: PaymentStatusResult,
    now: datetime,
) -> Event[Any]:
    # Of what expired unasked, or unknown to the provider, we know what we wanted.
    known = bool(answer.currency)
    event = provider.event(
        _TYPES[standing],
        PaymentOutcome(
            provider=provider.name,
            payment_id=row.reference,
            references=sorted(answer.references),
            customer_id=None,
            contact=answer.contact,
            amount=answer.amount if known else row.amount,
            currency=answer.currency if known else row.currency,
            reason=strip_nul(answer.reason) if answer.reason else None,
        ),
        id_=derived_id(provider.source, row.reference, standing),
        subject=row.reference,
        proof=_ASKED,
        time=domain.paid_at(answer.at, row.created_at, now),
    )
    return _caused(event, row)


def _duplicates(
    provider: PollableProvider,
    row: PendingPayment,
    found: Sequence[PaymentStatusResult],
    now: datetime,
) -> list[Event[Any]]:
    """An event for each charge that nobody was told of. The first was told as the payment, also
    where nobody noted which that was."""
    charges = sorted(found, key=lambda each: (each.at or now, each.charge or ""))
    known = {*row.charges} or {each.charge or "" for each in charges[:1]}
    return [
        _caused(
            provider.event(
                "payment.duplicated",
                PaymentOutcome(
                    provider=provider.name,
                    payment_id=each.charge or "",
                    references=sorted({row.reference, *each.references}),
                    customer_id=None,
                    contact=each.contact,
                    amount=each.amount,
                    currency=each.currency,
                ),
                id_=derived_id(provider.source, row.reference, "duplicated", each.charge or ""),
                subject=row.reference,
                proof=_ASKED,
                time=domain.paid_at(each.at, row.created_at, now),
            ),
            row,
        )
        for each in charges
        if (each.charge or "") not in known
    ]


def _caused(event: Event[Any], row: PendingPayment) -> Event[Any]:
    return event.model_copy(
        update={"correlationid": row.correlation_id, "causationid": row.cause_id}
    )

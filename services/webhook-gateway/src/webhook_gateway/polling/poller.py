"""Polling of providers for payments whose outcome is open, and publishing of the outcomes.

Webhooks and polls share this path: a notification only moves the next poll to now. An outcome is
published once, whichever comes first, because its event id derives from the payment and its status.
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
from common.resilience.rate_limiter import SharedRate
from webhook_gateway import domain, metrics, repository
from webhook_gateway.domain import PaymentStatus, PollState, Step
from webhook_gateway.models import PendingPayment
from webhook_gateway.providers.base import Authentication
from webhook_gateway.providers.endpoint_registry import EndpointRegistry
from webhook_gateway.providers.pollable import PaymentQuery, PaymentStatusResult, PollableProvider
from webhook_gateway.repository import PendingPaymentCount

log = get_logger(__name__)

_LOOP_SECONDS = 0.5
_CLEANUP_INTERVAL_SECONDS = 600.0
_GAUGE_INTERVAL_SECONDS = 5.0
_LEASE_MARGIN_SECONDS = 20  # for the transactions that record a result
_UNPOLLABLE_HINT = (
    "the endpoints file must have the payments' endpoint, for their tenant and with credentials"
)
_NOTIFICATION_RETENTION = timedelta(hours=1)

_TYPES = {
    PaymentStatus.SUCCEEDED: "payment.succeeded",
    PaymentStatus.FAILED: "payment.failed",
    PaymentStatus.EXPIRED: "payment.expired",
}
_POLLED = Authentication("requery")

_Said = TypeVar("_Said", PaymentStatusResult, Sequence[PaymentStatusResult])


class PaymentPoller:
    """The poller of one worker process. `rate_per_second` and `burst` limit the queries to one
    endpoint's provider across all workers, `max_concurrency` those of this process; `timeout`
    (seconds) limits one query."""

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
        self._unpollable: dict[tuple[str, str], int] = {}  # the count that was logged last

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        cleaned_at = measured_at = 0.0
        loop = asyncio.get_running_loop()
        async with httpx.AsyncClient(timeout=self._timeout) as http:
            while not self._stopping:
                self._wake.clear()
                for provider in self._pollable_providers():
                    try:
                        await self._begin(http, provider)
                    except Exception as error:  # noqa: BLE001 - other providers are still polled
                        path = provider.endpoint.path
                        log.warning(
                            "payment_poll_claim_failed", endpoint=path, error=describe(error)
                        )
                try:
                    if loop.time() - cleaned_at > _CLEANUP_INTERVAL_SECONDS:
                        await self._clean_up()
                        cleaned_at = loop.time()
                    if loop.time() - measured_at > _GAUGE_INTERVAL_SECONDS:
                        await self._measure()
                        measured_at = loop.time()
                except sqlalchemy.exc.SQLAlchemyError as error:
                    log.warning("payment_cleanup_failed", error=describe(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _LOOP_SECONDS)
            await asyncio.gather(*self._under_way, return_exceptions=True)

    def _pollable_providers(self) -> list[PollableProvider]:
        return [
            each
            for each in self._routes.all()
            if isinstance(each, PollableProvider) and each.can_be_polled
        ]

    def _rate(self, path: str) -> SharedRate:
        return SharedRate(f"poll {path}", self._per_second, self._burst)

    async def _begin(self, http: httpx.AsyncClient, provider: PollableProvider) -> None:
        path = provider.endpoint.path
        free = self._at_once - self._waiting[path]
        if free <= 0:
            return  # a slow provider delays only its own payments
        async with self._sessions.begin() as session:
            claimed = await repository.claim(
                session,
                provider.name,
                provider.endpoint.name,
                tenant=provider.endpoint.tenant,
                rate=self._rate(path),
                max_payments=free,
                lease=self._lease,
            )
        for row in claimed:
            self._waiting[path] += 1
            task = asyncio.create_task(self._poll(http, provider, row))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _poll(
        self, http: httpx.AsyncClient, provider: PollableProvider, row: PendingPayment
    ) -> None:
        query = PaymentQuery(row.reference, row.lookup)
        try:
            if row.published_status == PaymentStatus.SUCCEEDED:
                found = await self._result_of(provider, provider.charges(http, query))
                await self._apply_charges(provider, row, found)
            else:
                result = await self._result_of(provider, provider.poll(http, query))
                await self._apply(provider, row, result)
        except Exception as error:  # noqa: BLE001 - polled again when its lease ends
            log.warning(
                "provider_answer_not_recorded", provider=provider.name, error=describe(error)
            )
        finally:
            self._waiting[provider.endpoint.path] -= 1

    async def _result_of(self, provider: PollableProvider, asking: Awaitable[_Said]) -> _Said | str:
        """Return the provider's result, or the reason why there is none."""
        outcome = "failed"
        try:
            async with asyncio.timeout(self._timeout):
                result = await asking
            outcome = result.status.value if isinstance(result, PaymentStatusResult) else "charges"
        except RateLimited as error:
            async with self._sessions.begin() as session:
                await self._rate(provider.endpoint.path).block(session, error.retry_after)
            return str(error)
        except Exception as error:  # noqa: BLE001 - any error means that there is no result
            return excerpt(describe(error), self._redact)
        else:
            return result
        finally:
            metrics.polls.labels(provider.name, outcome).inc()

    async def _apply(
        self, provider: PollableProvider, polled: PendingPayment, result: PaymentStatusResult | str
    ) -> None:
        """Apply a result. `polled` is the payment as it was when the query began."""
        async with self._sessions.begin() as session:
            row = await repository.lock(session, polled.id)
            if row is None:
                return
            # A notification that arrived during the query needs a query that begins after it.
            sooner = row.next_poll_at if row.next_poll_at != polled.next_poll_at else None
            now = await tenant_rows.database_now(session)
            step, event, error = self._conclude(provider, row, result, now)
            row.error = error
            row.next_poll_at = step.next_poll_at
            paid = PaymentStatus.SUCCEEDED in {step.publish, PaymentStatus(row.published_status)}
            if paid and provider.charges_again:
                row.next_poll_at = domain.second_payment_check_at(_watch(row), now)
            if sooner is not None and (not paid or provider.charges_again):
                row.next_poll_at = min(sooner, row.next_poll_at or sooner)
            if step.publish is not None and event is not None:
                row.published_status = step.publish
                if paid and isinstance(result, PaymentStatusResult) and result.charge is not None:
                    row.charges = sorted({*row.charges, result.charge})
                await outbox.enqueue(session, [event])
        if error is not None:
            log.warning(
                "payment_poll_failed", provider=provider.name, payment=polled.id, error=error
            )
            if step.next_poll_at is None:
                log.error("payment_polling_abandoned", payment=polled.id, error=error)
        elif row.announced and step.next_poll_at is None and _is_pending(result):
            log.error(
                "pending_payment_abandoned",
                hint="the provider reports it as pending: check there",
                provider=provider.name,
                payment=polled.id,
            )
        if step.publish is None:
            return
        recovered = step.publish is PaymentStatus.SUCCEEDED and row.notified_at is None
        if recovered:
            metrics.recovered.labels(provider.name).inc()
        log.info(
            "payment_status_published",
            provider=provider.name,
            status=step.publish,
            recovered=recovered,
        )

    async def _apply_charges(
        self,
        provider: PollableProvider,
        polled: PendingPayment,
        found: Sequence[PaymentStatusResult] | str,
    ) -> None:
        """Report further charges of a payment that succeeded: they have to be refunded."""
        events: list[Event[Any]] = []
        async with self._sessions.begin() as session:
            row = await repository.lock(session, polled.id)
            if row is None:
                return
            now = await tenant_rows.database_now(session)
            sooner = row.next_poll_at if row.next_poll_at != polled.next_poll_at else None
            if not isinstance(found, str):
                try:
                    events = _duplicates(provider, row, found, now)
                except (ValueError, TypeError) as error:
                    found = (
                        f"its result can't be published: {excerpt(describe(error), self._redact)}"
                    )
            if isinstance(found, str):
                row.error, row.next_poll_at = (
                    found,
                    domain.on_no_result(_watch(row), now).next_poll_at,
                )
            else:
                row.error, row.next_poll_at = None, domain.second_payment_check_at(_watch(row), now)
                row.charges = sorted({*row.charges, *(each.charge or "" for each in found)})
            if sooner is not None:
                row.next_poll_at = min(sooner, row.next_poll_at or sooner)
            await outbox.enqueue(session, events)
        if isinstance(found, str):
            log.warning(
                "payment_poll_failed", provider=provider.name, payment=polled.id, error=found
            )
            if row.next_poll_at is None:
                log.error(
                    "second_payment_unknown",
                    hint="check at the provider",
                    payment=polled.id,
                    error=found,
                )
        for event in events:
            metrics.duplicated.labels(provider.name).inc()
            log.error(
                "payment_received_twice",
                hint="refund it; an order's payment by a refund of the order",
                provider=provider.name,
                payment=polled.id,
                charge=event.data.payment_id,
            )

    def _conclude(
        self,
        provider: PollableProvider,
        row: PendingPayment,
        result: PaymentStatusResult | str,
        now: datetime,
    ) -> tuple[Step, Event[Any] | None, str | None]:
        """Return the next step, the event to publish, and the error if no result is usable."""
        watch = _watch(row)
        if not isinstance(result, str):
            step = domain.on_result(
                watch, result.status, now, failure_is_final=provider.failure_is_final
            )
            if step.publish is None:
                return step, None, None
            # A malformed reason or contact must not keep an outcome from being published.
            bare = replace(result, reason=None, contact=Contact())
            for each in (result, bare):
                try:
                    return step, _event(provider, row, step.publish, each, now), None
                except (ValueError, TypeError) as error:
                    fault = (
                        f"its result can't be published: {excerpt(describe(error), self._redact)}"
                    )
            result = fault
        step = domain.on_no_result(watch, now)
        event = (
            _event(provider, row, step.publish, PaymentStatusResult(step.publish), now)
            if step.publish
            else None
        )
        return step, event, result

    async def _clean_up(self) -> None:
        async with self._sessions.begin() as session:
            await repository.delete_stale_notifications(session, _NOTIFICATION_RETENTION)

    async def _measure(self) -> None:
        pending = await self.pending()
        metrics.watched.clear()
        metrics.unpollable.clear()
        for each in pending:
            metrics.watched.labels(each.provider).inc(each.payments)
            if self._is_polled(each):
                continue
            metrics.unpollable.labels(each.provider).inc(each.payments)
            whose = (each.tenant, f"{each.provider}/{each.endpoint}")
            if self._unpollable.get(whose) != each.payments:
                self._unpollable[whose] = each.payments
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

    def _is_polled(self, pending: PendingPaymentCount) -> bool:
        return any(
            (each.endpoint.tenant, each.name, each.endpoint.name)
            == (pending.tenant, pending.provider, pending.endpoint)
            for each in self._pollable_providers()
        )

    async def health(self) -> Sequence[Mapping[str, Any]]:
        """Return the pending payments of each endpoint, since when, and whether they are polled."""
        return [
            {
                "tenant": each.tenant,
                "endpoint": f"{each.provider}/{each.endpoint}",
                "pending": each.payments,
                "oldest_at": each.oldest_at,
                "failed_polls": each.errors,
                "polled": self._is_polled(each),
            }
            for each in await self.pending()
        ]


def _is_pending(result: PaymentStatusResult | str) -> bool:
    return isinstance(result, PaymentStatusResult) and result.status is PaymentStatus.PENDING


def _watch(row: PendingPayment) -> PollState:
    return PollState(
        row.announced, row.expires_at, row.poll_count, PaymentStatus(row.published_status)
    )


def _event(
    provider: PollableProvider,
    row: PendingPayment,
    status: PaymentStatus,
    result: PaymentStatusResult,
    now: datetime,
) -> Event[Any]:
    # A payment that expired without a result has the amount that was requested.
    known = bool(result.currency)
    event = provider.event(
        _TYPES[status],
        PaymentOutcome(
            provider=provider.name,
            payment_id=row.reference,
            references=sorted(result.references),
            customer_id=None,
            contact=result.contact,
            amount=result.amount if known else row.amount,
            currency=result.currency if known else row.currency,
            reason=strip_nul(result.reason) if result.reason else None,
        ),
        id_=derived_id(provider.source, row.reference, status),
        subject=row.reference,
        proof=_POLLED,
        time=domain.paid_at(result.at, row.created_at, now),
    )
    return _caused(event, row)


def _duplicates(
    provider: PollableProvider,
    row: PendingPayment,
    found: Sequence[PaymentStatusResult],
    now: datetime,
) -> list[Event[Any]]:
    """Return an event for each charge that was not published yet. The first charge was published as
    the payment, even where its id was not recorded."""
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
                proof=_POLLED,
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

"""Refunds to payers: store the intent, call the provider, publish the result.

Several workers may safely process the same refund concurrently: all use the same key at the
provider, and a repeated attempt first checks whether an earlier call went through.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.clients.accounts_file import gateway_source
from common.clients.json_api import excerpt
from common.clients.stripe import IdempotencyKeyConsumed
from common.contracts.event import Event
from common.contracts.payments import RefundCompleted, RefundReported, RefundRequested
from common.db.database import Sessions
from common.errors import (
    Busy,
    Invalid,
    Permanent,
    ProviderRejected,
    ProviderTimeout,
    RateLimited,
    Upstream,
)
from common.messaging.outbox import UnitOfWork
from common.observability.logging import get_logger
from common.observability.redaction import Redactor
from common.resilience.call_guard import CallGuard
from subscription import metrics, repository
from subscription.domain import SOURCE
from subscription.models import Checkout, Refund
from subscription.providers.base import CheckoutClient, RefundRequest, RefundResult
from subscription.providers.registry import Accounts
from subscription.schemas.checkout import stored

log = get_logger(__name__)

_OPEN, _FAILED, _UNKNOWN = "requested", "failed", "unknown"


class RefundService:
    """Service that makes refunds. `timeout` is the limit for a provider's response (seconds)."""

    def __init__(
        self, sessions: Sessions, accounts: Accounts, *, timeout: float, redact: Redactor
    ) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._timeout = timeout
        self._redact = redact

    async def process(self, event: Event[RefundRequested]) -> None:
        """Make a requested refund. Raise `Permanent` if it can never be made, `Busy` if it cannot
        be made now, and the provider client's errors if it may be retried."""
        client, gate, request = await self._intend(event)
        if request is None:
            return
        try:
            async with gate.admit(), asyncio.timeout(self._timeout), gate.call():
                returned = await client.refund(request)
        except ProviderRejected as error:
            returned = RefundResult("", accepted=False, reason=self._masked(error))
        except RateLimited as error:  # uses up no attempt: a busy provider is no failure
            raise Busy(str(error), error.retry_after) from error
        except IdempotencyKeyConsumed:
            await self._next_key(request)
            raise
        except TimeoutError as error:
            raise ProviderTimeout(f"no answer in {self._timeout:g} s") from error
        await self._apply(event, returned)

    async def give_up(
        self, work: UnitOfWork, event: Event[RefundRequested], error: BaseException
    ) -> None:
        """Report a refund whose attempts are all used up as `unknown`, since one of them may have
        gone through. If not even the intent was stored, none did: it is reported as `failed`, and
        is not paid when the same request is delivered again."""
        report = event.data
        checkout = await work.session.get(Checkout, report.checkout_id)
        mine = checkout is not None and checkout.tenant == event.tenant
        never_begun = {
            "id": report.refund_id,
            "tenant": event.tenant,
            "provider": checkout.provider if checkout is not None and mine else "unknown",
            "checkout_id": report.checkout_id,
            "amount": report.amount,
            "currency": report.currency,
            "reason": report.reason,
            "status": _FAILED,
            "requests": event.sequence or 1,
            "error": self._masked(error),
        }
        row, is_new = await repository.intend_refund(work.session, never_begun)
        begun = not is_new
        same = (row.tenant, row.checkout_id, row.amount)
        if same != (event.tenant, report.checkout_id, report.amount):
            return  # another refund has this id
        newer = (event.sequence or 1) > row.requests
        if begun and row.status != _OPEN and not (row.status == _FAILED and newer):
            return
        if begun and row.status == _OPEN:
            row.status = _UNKNOWN
        row.requests, row.error = max(row.requests, event.sequence or 1), self._masked(error)
        metrics.refunds.labels(row.provider, row.status).inc()
        row.reports += 1
        _publish(work, event, row)

    def _masked(self, error: BaseException) -> str:
        return excerpt(str(error), self._redact)

    async def _intend(
        self, event: Event[RefundRequested]
    ) -> tuple[CheckoutClient, CallGuard, RefundRequest | None]:
        report = event.data
        async with self._sessions.begin() as session:
            checkout = await session.get(Checkout, report.checkout_id)
            if checkout is None or checkout.tenant != event.tenant or checkout.reference is None:
                raise Permanent(f"there is no checkout {report.checkout_id!r} to refund")
            values = {
                "id": report.refund_id,
                "tenant": event.tenant,
                "provider": checkout.provider,
                "checkout_id": checkout.id,
                "amount": report.amount,
                "currency": report.currency,
                "reason": report.reason,
                "status": _OPEN,
                "requests": event.sequence or 1,
            }
            row, _ = await repository.intend_refund(session, values)
            if (row.checkout_id, row.amount) != (checkout.id, report.amount):
                raise Permanent(f"the refund {row.id!r} exists already and differs")
            if row.status == _UNKNOWN:
                row.status, row.requests = _OPEN, max(row.requests, event.sequence or 1)
            elif row.status == _FAILED and report.again and (event.sequence or 0) > row.requests:
                # An operator may have paid manually since: the same request is not honoured twice.
                row.status, row.requests = _OPEN, event.sequence or 0
                row.attempts += 1  # with the same key the rejection would be repeated
            elif row.status == _OPEN:
                # If this attempt is rejected, an earlier request must not count as a new one.
                row.requests = max(row.requests, event.sequence or 1)
            elif report.again and (event.sequence or 0) > row.requests:
                row.requests = event.sequence or 0
                await _tell_again(session, event, row)
            request = RefundRequest(
                row.id, checkout.reference, row.amount, row.currency, row.attempts
            )
            open_ = row.status == _OPEN
        terms = stored(checkout.terms)
        try:
            client = self._accounts.find(event.tenant, terms)
        except Invalid as error:
            raise Upstream(str(error)) from error  # may be fixed in the accounts file
        gate = self._accounts.gate(event.tenant, terms)
        return client, gate, request if open_ else None

    async def _next_key(self, request: RefundRequest) -> None:
        """Use the next idempotency key: Stripe would repeat a 500 for the same key."""
        async with self._sessions.begin() as session:
            row = await repository.locked_refund(session, request.id)
            row.attempts = max(row.attempts, request.attempt + 1)

    async def _apply(self, event: Event[RefundRequested], returned: RefundResult | None) -> None:
        async with self._sessions.begin() as session:
            row = await repository.locked_refund(session, event.data.refund_id)
            made = returned is not None and returned.accepted
            if returned is not None and row.provider_refund_id == returned.refund_id != "":
                return  # recorded before, perhaps with a later failure
            if row.status not in {_OPEN, _UNKNOWN} and not (made and row.status == _FAILED):
                return
            if returned is None:
                row.status, row.error = "manual", "the provider has no refunds"
            else:
                row.status = "succeeded" if made else _FAILED
                row.provider_refund_id, row.error = returned.refund_id or None, returned.reason
            row.reports += 1
            metrics.refunds.labels(row.provider, row.status).inc()
            work = UnitOfWork(session, SOURCE)
            _publish(work, event, row)
            await work.flush()


async def take_report(work: UnitOfWork, event: Event[RefundReported]) -> None:
    """Apply a report that a refund failed after the provider had made it: the money is back in the
    account, and the requester receives `refund.completed` with `failed`."""
    report = event.data
    if report.status != _FAILED:
        return
    row = await repository.refund_reported(
        work.session, event.tenant, report.reference, report.refund_id
    )
    if row is None:
        return  # not requested here
    known = row.provider_refund_id == report.refund_id
    if known and row.status in {_OPEN, _FAILED}:
        return  # of an attempt known to have failed; another may be under way
    if not known and row.provider_refund_id and row.status != _OPEN:
        return  # followed by another attempt, whose outcome is known
    checkout = await work.session.get_one(Checkout, row.checkout_id)
    if gateway_source(checkout.provider, checkout.account) != event.source:
        return
    row.status, row.provider_refund_id = _FAILED, report.refund_id
    row.error = f"it failed after it had succeeded: {report.reason or 'no reason given'}"
    row.reports += 1
    metrics.refunds.labels(row.provider, row.status).inc()
    log.error("refund_failed_after_success", refund=row.id, reason=report.reason)
    _publish(work, event, row)


async def _tell_again(session: AsyncSession, event: Event[RefundRequested], row: Refund) -> None:
    """Publish the known outcome again: a requester that repeats its request has not received it."""
    row.reports += 1
    work = UnitOfWork(session, SOURCE)
    _publish(work, event, row)
    await work.flush()


def _publish(work: UnitOfWork, event: Event[Any], row: Refund) -> None:
    work.emit(
        "refund.completed",
        RefundCompleted(
            refund_id=row.id,
            checkout_id=row.checkout_id,
            status=row.status,
            amount=row.amount,
            currency=row.currency,
            provider_refund_id=row.provider_refund_id,
            reason=row.error,
        ),
        subject=row.id,
        # Two reports of the same outcome are two events.
        sequence=row.reports,
        cause=event,
    )

"""Giving a payer money back: the intent is written down, the provider asked, the answer told.

Safe to run for the same refund from several places at once: all use the same key at the provider,
and whoever begins again looks first whether an earlier call got through.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy.dialects.postgresql import insert

from common.contracts.event import Event
from common.contracts.payments import RefundRequested, RefundSettled
from common.database import Sessions
from common.errors import Invalid, Permanent, Upstream
from common.messaging.outbox import Work
from common.outside import NoAnswer, Refused, excerpt
from common.redaction import Redactor
from subscription import metrics
from subscription.accounts import Accounts
from subscription.clients import CheckoutClient, Return, Returned
from subscription.models import Checkout, Refund
from subscription.requests import stored

SOURCE = "/subscription"
_OPEN, _FAILED = "requested", "failed"


class Refunder:
    """`timeout` (seconds) is how long a provider may take to answer."""

    def __init__(
        self, sessions: Sessions, accounts: Accounts, *, timeout: float, redact: Redactor
    ) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._timeout = timeout
        self._redact = redact

    async def do(self, event: Event[RefundRequested]) -> None:
        """Raises `Permanent` for what never can be refunded, and what the provider's client
        raises when it may be tried again."""
        client, wanted = await self._intend(event)
        if wanted is None:
            return
        try:
            async with asyncio.timeout(self._timeout):
                returned = await client.give_back(wanted)
        except Refused as error:
            said = excerpt(self._redact(str(error)))
            returned = Returned("", accepted=False, reason=said)
        except NoAnswer:
            raise  # the same key again: the first call may still be under way
        except Upstream:
            await self._next_key(wanted)
            raise
        except TimeoutError as error:
            raise NoAnswer(f"no answer in {self._timeout:g} s") from error
        await self._settle(event, returned)

    async def give_up(
        self, work: Work, event: Event[RefundRequested], error: BaseException
    ) -> None:
        """All attempts are used up: whoever wants the refund hears of it."""
        row = await work.session.get(Refund, event.data.refund_id, with_for_update=True)
        said = excerpt(self._redact(str(error)))
        if isinstance(error, NoAnswer):
            said = f"nobody knows whether it was made, look at the provider: {said}"
        if row is not None:
            if row.status != _OPEN:
                return
            row.status, row.error = _FAILED, said
            row.reports += 1
        work.emit(
            "refund.settled",
            _settled(event.data, _FAILED, None, said),
            subject=event.data.refund_id,
            sequence=row.reports if row is not None else None,
            cause=event,
        )

    async def _intend(self, event: Event[RefundRequested]) -> tuple[CheckoutClient, Return | None]:
        report = event.data
        async with self._sessions.begin() as session:
            checkout = await session.get(Checkout, report.checkout_id)
            if checkout is None or checkout.tenant != event.tenant or checkout.reference is None:
                raise Permanent(f"there is no checkout {report.checkout_id!r} to refund")
            try:
                client = self._accounts.find(checkout.tenant, stored(checkout.request))
            except Invalid as error:
                raise Upstream(str(error)) from error  # mended in the accounts file
            values = {
                "id": report.refund_id,
                "tenant": event.tenant,
                "provider": checkout.provider,
                "checkout_id": checkout.id,
                "amount": report.amount,
                "currency": report.currency,
                "reason": report.reason,
                "status": _OPEN,
            }
            await session.execute(insert(Refund).values(values).on_conflict_do_nothing())
            row = await session.get_one(Refund, report.refund_id, with_for_update=True)
            if (row.checkout_id, row.amount) != (checkout.id, report.amount):
                raise Permanent(f"the refund {row.id!r} is another one already")
            if row.status == _FAILED:
                row.status = _OPEN  # somebody wants it tried again
            if row.status != _OPEN:
                return client, None
            return client, Return(
                row.id, checkout.reference, row.amount, row.currency, row.attempts
            )

    async def _next_key(self, wanted: Return) -> None:
        """A 500 would be repeated for the same key."""
        async with self._sessions.begin() as session:
            row = await session.get_one(Refund, wanted.id, with_for_update=True)
            row.attempts = max(row.attempts, wanted.attempt + 1)

    async def _settle(self, event: Event[RefundRequested], returned: Returned | None) -> None:
        reference: str | None = None
        if returned is None:
            status, reason = "by_hand", "the provider has no refunds"
        else:
            status = "succeeded" if returned.accepted else _FAILED
            reference, reason = returned.refund_id or None, returned.reason or ""
        async with self._sessions.begin() as session:
            row = await session.get_one(Refund, event.data.refund_id, with_for_update=True)
            if row.status != _OPEN:
                return
            row.status, row.provider_refund_id, row.error = status, reference, reason
            row.reports += 1
            metrics.refunds.labels(row.provider, status).inc()
            work = Work(session, SOURCE)
            work.emit(
                "refund.settled",
                _settled(event.data, status, reference, reason),
                subject=row.id,
                # What is tried again by the same command is told anew.
                sequence=row.reports,
                cause=event,
            )
            await work.flush()


def _settled(
    wanted: RefundRequested, status: Any, reference: str | None, reason: str | None
) -> RefundSettled:
    return RefundSettled(
        refund_id=wanted.refund_id,
        checkout_id=wanted.checkout_id,
        status=status,
        amount=wanted.amount,
        currency=wanted.currency,
        provider_refund_id=reference,
        reason=reason,
    )

"""Storage of reported payments, and of their refunds and disputes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event
from common.contracts.payments import (
    CheckoutReversed,
    PaymentDisputed,
    PaymentOutcome,
    PaymentRefunded,
    RefundReported,
)
from common.messaging.outbox import UnitOfWork
from subscription import domain, models, repository
from subscription.domain import ReversalKind, ReversalReport
from subscription.models import Checkout, Payment, Reversal, row_id
from subscription.schemas.checkout import stored

# Of a charge's refunds, before the provider has reported their total.
_NOT_REPORTED: Final = datetime.min.replace(tzinfo=UTC)


async def save_payment(
    session: AsyncSession, event: Event[Any], report: PaymentOutcome, *, paid: bool
) -> Payment:
    """Save the payment and return its row, which exists and is locked."""
    id_ = row_id(Payment, event.tenant, report.provider, report.payment_id)
    row = await session.get_one(Payment, id_)
    row.references = sorted({*row.references, *report.references, report.payment_id})
    # A link that came first knew neither.
    if report.customer_id is not None and row.customer_id is None:
        row.customer_id = row_id(models.Customer, event.tenant, report.provider, report.customer_id)
    # Without a customer it is not a subscription of ours.
    known = report.customer_id is not None or row.customer_id is not None
    if report.subscription_id is not None and row.subscription_id is None and known:
        row.subscription_id = row_id(
            models.Subscription, event.tenant, report.provider, report.subscription_id
        )
    new = domain.Payment(
        paid, event.time, event.id, report.amount, report.currency, None if paid else report.reason
    )
    if row.paid is not None and (row.paid, row.reported_at, row.reported_event_id) >= new.order:
        return row
    row.paid, row.reported_at, row.reported_event_id = new.order
    row.amount, row.currency, row.reason = new.amount, new.currency, new.reason
    return row


async def assign_checkout(
    work: UnitOfWork, event: Event[Any], payment: Payment, checkout: Checkout
) -> None:
    """Record whose checkout the payment is, and publish the refunds and disputes that came first.
    The payment is locked, as it is by `save_refunds` and `save_dispute`."""
    if payment.checkout_id is not None:
        return
    payment.checkout_id = checkout.id
    await work.session.flush()
    found = await repository.reversals_of(work.session, [payment])
    for row in found[payment.id]:
        _publish(work, event, row, checkout)


async def save_refunds(work: UnitOfWork, event: Event[PaymentRefunded]) -> None:
    report = event.data
    row = await _save(
        work.session,
        event,
        report.refund_of,
        ReversalReport(ReversalKind.REFUND, event.time, report.amount_refunded),
        report.references,
    )
    await _apply(work, event, row)


async def save_failed_refund(work: UnitOfWork, event: Event[RefundReported]) -> None:
    """Save a refund whose money came back. The charge's row is locked first, so that a report of
    its total that is saved at the same time is corrected, too."""
    report = event.data
    charge: Reversal | None = None
    if report.refund_of is not None:
        unreported = ReversalReport(ReversalKind.REFUND, _NOT_REPORTED, 0)
        charge = await _save(work.session, event, report.refund_of, unreported, [report.refund_of])
    said = ReversalReport(
        ReversalKind.REFUND_FAILED, event.time, report.amount, began=report.created_at
    )
    failed = await _save(
        work.session, event, report.refund_id, said, report.references, report.reason
    )
    # A gateway of version 0.2.0 does not name the charge.
    charges = [charge] if charge else await repository.refunds_with(work.session, failed)
    for each in charges:
        await _apply(work, event, each)


async def save_dispute(work: UnitOfWork, event: Event[PaymentDisputed]) -> None:
    report = event.data
    row = await _save(
        work.session,
        event,
        report.dispute_id,
        ReversalReport(ReversalKind.DISPUTE, event.time, report.amount, report.status),
        report.references,
        report.reason,
    )
    await _apply(work, event, row)


async def _save(
    session: AsyncSession,
    event: Event[PaymentRefunded] | Event[RefundReported] | Event[PaymentDisputed],
    provider_id: str,
    new: ReversalReport,
    references: list[str],
    reason: str | None = None,
) -> Reversal:
    """Save the report if it applies; return the row, locked."""
    values = {
        "id": row_id(Reversal, event.tenant, event.data.provider, provider_id),
        "tenant": event.tenant,
        "provider": event.data.provider,
        "kind": new.kind.value,
        "amount": new.total,
        "total": new.total,
        "currency": event.data.currency,
        "reason": reason,
        "references": references,
        "reported_at": event.time,
        "began_at": new.began,
        "status": new.status,
        "status_at": new.at,
        "version": 0,
    }
    row, is_new = await repository.intend_reversal(session, values)
    known = _report(row)
    if row.total is not None:
        row.total = known.total
    row.references = sorted({*row.references, *references})
    if not is_new and new.at != _NOT_REPORTED:
        first = known.at == _NOT_REPORTED
        row.reported_at = event.time if first else min(row.reported_at, event.time)
    if not is_new and new.replaces(known):
        row.total, row.status, row.status_at = new.total, new.status, new.at
        row.amount = new.total  # until it is calculated
    return row


async def _apply(work: UnitOfWork, event: Event[Any], row: Reversal) -> None:
    """Calculate what applies of the refunds or the dispute; publish it if it changed and a checkout
    has a purpose."""
    amount = _report(row).total
    if row.kind == ReversalKind.REFUND:
        await work.session.flush()
        failed = await repository.failed_refunds_of(work.session, row)
        amount = domain.returned(_report(row), map(_report, failed))
    row.amount = amount
    row.version += 1
    checkout = await repository.checkout_of_reversal(work.session, row)
    if checkout is not None:
        _publish(work, event, row, checkout)


def _publish(work: UnitOfWork, event: Event[Any], row: Reversal, checkout: Checkout) -> None:
    purpose = stored(checkout.terms).purpose
    if purpose is None or row.kind == ReversalKind.REFUND_FAILED:
        return
    work.emit(
        "checkout.reversed",
        CheckoutReversed(
            checkout_id=checkout.id,
            purpose=purpose,
            reversal_id=row.id,
            kind="dispute" if row.kind == ReversalKind.DISPUTE else "refund",
            status=row.status,
            amount=row.amount,
            currency=row.currency,
            reason=row.reason,
        ),
        subject=row.id,
        sequence=row.version,
        cause=event,
    )


def _report(row: Reversal) -> ReversalReport:
    """An `amount` above the `total` was written by version 0.2.0, which knows only the former and
    may run beside this one."""
    return ReversalReport(
        ReversalKind(row.kind),
        row.status_at or row.reported_at,
        max(row.amount, row.total or 0),
        row.status,
        row.began_at,
    )

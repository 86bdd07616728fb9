"""Handlers of events about orders' checkouts and refunds, one function per event type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event, derived_id
from common.contracts.payments import CheckoutReversed, CheckoutStatusChanged, RefundCompleted
from common.db import tenant_rows
from common.errors import Permanent
from common.messaging.outbox import UnitOfWork
from common.messaging.transactional_consumer import Handler
from common.observability.logging import get_logger
from orders import metrics, order_service, repository
from orders.domain import (
    CHECKOUT_PURPOSE,
    UNPAID,
    PaymentDecision,
    RefundState,
    State,
    decide_payment,
)
from orders.models import Order, Payment, Refund
from orders.order_service import stored_terms
from orders.unit_of_work import OrderUnitOfWork

log = get_logger(__name__)

# Providers may truncate times to whole seconds: a payment not certainly in time counts as late.
_WHOLE_SECOND = timedelta(seconds=1)
# A working scheduler has cancelled the order long before this time after the deadline.
_CLOCK_LATE = timedelta(minutes=5)
_WHY = {
    PaymentDecision.LATE: "paid after the order was cancelled",
    PaymentDecision.DOUBLE: "the order was paid already",
    PaymentDecision.WRONG: "not what the order costs",
}
_MORE = "more than the order costs"
_HELD = "the provider reports a refund or a dispute of its payment"


async def on_checkout_settled(work: UnitOfWork, event: Event[CheckoutStatusChanged]) -> None:
    report = event.data
    order = _order(work.session, event)
    if order is None:
        return
    id_ = report.checkout_id
    if report.charge is not None:
        id_ = derived_id("payments", id_, report.charge)
    values = {
        "id": id_,
        "checkout_id": report.checkout_id,
        "charge": report.charge,
        "tenant": event.tenant,
        "order_id": order.id,
        "provider": report.provider,
        "account": report.account,
        "status": report.status,
    }
    payment = await repository.save_payment(work.session, values)
    if payment.decision is not None:
        return  # decided only once
    payment.status, payment.completed_at = report.status, event.time
    if report.amount is not None and report.currency is not None:
        payment.amount, payment.currency = report.amount, report.currency
        surely = order.pay_by - _WHOLE_SECOND
        in_time = report.paid_at is not None and report.paid_at <= surely
        await _catch_up(work, event, order, report.paid_at or event.time)
        await _take(work, event, order, payment, in_time=in_time)


async def _catch_up(
    work: UnitOfWork, event: Event[CheckoutStatusChanged], order: Order, paid_at: datetime
) -> None:
    """Cancel an unpaid order before applying a payment made long after the deadline, in case the
    scheduler was down: after a restore the payment is reported again, and may have been refunded
    since."""
    if order.state in UNPAID and paid_at > order.pay_by + _CLOCK_LATE:
        changes = OrderUnitOfWork(work.session, event)
        now = await tenant_rows.database_now(work.session)
        await order_service.cancel_unpaid(changes, order, now, by=None, reason="not paid in time")
        await changes.flush()


async def _take(
    work: UnitOfWork, event: Event[Any], order: Order, payment: Payment, *, in_time: bool
) -> None:
    assert payment.amount is not None
    assert payment.currency is not None
    terms = stored_terms(order.terms)
    decision, back = decide_payment(
        State(order.state),
        total=(order.total, order.currency),
        came=(payment.amount, payment.currency),
        late=terms.late_payment,
        by_clock=order.cancelled_by is None,
        in_time=in_time,
    )
    payment.decision = decision
    metrics.payments.labels(decision).inc()
    changes = OrderUnitOfWork(work.session, event)
    if decision in {PaymentDecision.ACCEPTED, PaymentDecision.REOPENED}:
        shares = await repository.shares(work.session, order.id)
        changes.transition(order, State.PAID)
        order.paid_by, order.paid_at = payment.id, event.time
        order.cancelled_at = None
        order.release_at = event.time + timedelta(seconds=terms.holding_seconds)
        order.due_at = order.release_at
        if decision is PaymentDecision.REOPENED:
            changes.publish(order, "reopened", shares)
        changes.publish(order, "paid", shares)
        # The provider may have reported a dispute first.
        await order_service.update_holds(changes, order, _HELD)
    if back:
        why = _WHY.get(decision, _MORE)
        await order_service.refund_payment(changes, order, payment, back, why)
    await changes.flush()


async def on_checkout_reversed(work: UnitOfWork, event: Event[CheckoutReversed]) -> None:
    report = event.data
    order = _order(work.session, event)
    if order is None:
        return
    values = {
        "id": report.reversal_id,
        "tenant": event.tenant,
        "order_id": order.id,
        "checkout_id": report.checkout_id,
        "kind": report.kind,
        "status": report.status,
        "amount": report.amount,
        "currency": report.currency,
        "reason": report.reason,
        "reported_at": event.time,
        "sequence": event.sequence or 0,
    }
    if await repository.save_reversal(work.session, values):
        await _update_holds(work, event, order)


async def _update_holds(work: UnitOfWork, event: Event[Any], order: Order) -> None:
    changes = OrderUnitOfWork(work.session, event)
    await order_service.update_holds(changes, order, _HELD)
    await changes.flush()


async def on_refund_settled(work: UnitOfWork, event: Event[RefundCompleted]) -> None:
    report = event.data
    refund = await work.session.get(Refund, report.refund_id)  # locked by `prepare`
    if refund is None or refund.tenant != event.tenant:
        return  # not a refund of this tenant's orders
    if event.sequence is not None and event.sequence <= refund.reports:
        return  # a newer report was applied
    refund.reports = event.sequence or refund.reports
    failed_later = report.status == "failed" and (
        report.provider_refund_id is not None
        and report.provider_refund_id == refund.provider_refund_id
    )
    if refund.state == RefundState.SUCCEEDED and not failed_later:
        if report.status == "succeeded" and refund.provider_refund_id is None:
            log.error("refund_made_twice", refund=refund.id)
        return
    refund.state = RefundState(report.status)
    refund.provider_refund_id, refund.error = report.provider_refund_id, report.reason
    refund.completed_at = event.time
    if refund.state in {RefundState.FAILED, RefundState.UNKNOWN}:
        log.error("refund_needs_attention", refund=refund.id, state=refund.state)
    if refund.state == RefundState.FAILED:
        await _update_holds(work, event, work.session.info["orders"][refund.order_id])


HANDLERS: Mapping[str, Handler] = {
    "checkout.status_changed": on_checkout_settled,
    "checkout.reversed": on_checkout_reversed,
    "refund.completed": on_refund_settled,
}


async def prepare(session: AsyncSession, events: Sequence[Event[Any]]) -> None:
    """Lock the batch's orders, then its refunds; every transaction locks in this order."""
    refunds = [event.data.refund_id for event in events if isinstance(event.data, RefundCompleted)]
    named = {id_ for event in events if (id_ := _named(event))}
    named.update(await repository.orders_of_refunds(session, refunds))
    orders = await repository.locked_orders(session, sorted(named))
    session.info["orders"] = {order.id: order for order in orders}
    tenant_rows.pin(session, await repository.locked_refunds(session, refunds))


def _order(
    session: AsyncSession, event: Event[CheckoutStatusChanged] | Event[CheckoutReversed]
) -> Order | None:
    id_ = _named(event)
    if id_ is None:
        return None
    order: Order | None = session.info["orders"].get(id_)
    if order is None or order.tenant != event.tenant:
        raise Permanent(f"a checkout names the order {id_!r}, which does not exist")
    return order


def _named(event: Event[Any]) -> str | None:
    data = event.data
    if isinstance(data, CheckoutStatusChanged | CheckoutReversed) and data.purpose.startswith(
        CHECKOUT_PURPOSE
    ):
        return data.purpose.removeprefix(CHECKOUT_PURPOSE)
    return None

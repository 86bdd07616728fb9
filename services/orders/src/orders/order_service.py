"""Operations on orders: place, cancel, fulfil, refund. Each runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import derived_id
from common.db import tenant_rows
from common.errors import Conflict, Invalid, NotFound
from orders import repository
from orders.buyers import Buyers
from orders.domain import AT_THE_PROVIDER, SOLD, RefundState, Reversed, State, held_back
from orders.models import Line, Order, Payment, Refund, Share, order_id, share_id
from orders.pricing import allocation
from orders.pricing.conversion import Conversion, convert
from orders.schemas import NewOrder, NewRefund, Terms
from orders.unit_of_work import OrderUnitOfWork


async def terms_of(session: AsyncSession, tenant: str) -> Terms:
    return stored_terms(dict(await repository.terms(session, tenant)))


def stored_terms(values: dict[str, Any]) -> Terms:
    """Parse stored terms, ignoring fields that another version wrote."""
    return Terms.model_validate(values, extra="ignore")


async def place(
    session: AsyncSession,
    tenant: str,
    key: str,
    request: NewOrder,
    sources: Sequence[str],
    buyers: Buyers,
) -> Order:
    """Place the order, or return the one placed with the same key. Raise `Conflict` if the key was
    used for another order, `NoRate` if a price cannot be converted, `Invalid` if the total is
    zero."""
    known = await session.get(Order, order_id(tenant, key))
    if known is not None:
        return _same(buyers, known, request)
    now = await tenant_rows.database_now(session)
    terms = await terms_of(session, tenant)
    priced = await _priced(session, terms, request, now, sources)
    pay_by = now + timedelta(seconds=terms.grace_seconds)
    order = {
        "id": order_id(tenant, key),
        "tenant": tenant,
        "created_at": now,
        "reference": request.reference,
        "idempotency_key": key,
        **buyers.columns(request),
        "buyer": request.buyer.reference,
        "state": State.PLACED.value,
        "currency": terms.currency,
        "total": sum(each.amount for each in priced),
        "terms": terms.model_dump(mode="json"),
        "pay_by": pay_by,
        "due_at": reminder_at(terms, pay_by) or pay_by,
    }
    if not order["total"]:
        raise Invalid("the order's total is zero")
    row, is_new = await repository.place(session, order)
    if not is_new:
        return _same(buyers, row, request)
    session.add_all(_lines(row, request, priced))
    shares = _shares(row, request, priced, terms)
    session.add_all(shares)
    changes = OrderUnitOfWork(session)
    changes.publish(row, "placed", shares)
    await changes.flush()
    return row


async def cancel(session: AsyncSession, tenant: str, id_: str, by: str, reason: str) -> Order:
    """Cancel an unpaid order. Raise `Conflict` if it is paid: a paid order is refunded instead."""
    order = await repository.locked_order(session, tenant, id_)
    if order.state in SOLD:
        raise Conflict(f"the order is {order.state}: refund it")
    if order.state == State.CANCELLED:
        # The response to the first call was lost; or it was cancelled automatically, and a caller
        # now confirms it.
        order.cancelled_by = order.cancelled_by or by
        return order
    changes = OrderUnitOfWork(session)
    await cancel_unpaid(
        changes, order, await tenant_rows.database_now(session), by=by, reason=reason
    )
    await changes.flush()
    return order


async def cancel_unpaid(
    changes: OrderUnitOfWork, order: Order, now: datetime, *, by: str | None, reason: str
) -> None:
    """Cancel the order. `by` is None for the scheduled job."""
    changes.transition(order, State.CANCELLED)
    order.cancelled_at, order.cancelled_by, order.due_at = now, by, None
    shares = await repository.shares(changes.session, order.id)
    changes.publish(order, "cancelled", shares, reason)


async def fulfil(session: AsyncSession, tenant: str, id_: str) -> Order:
    order = await repository.locked_order(session, tenant, id_)
    if order.state in {State.FULFILLED, State.COMPLETED}:
        return order  # the response to the first call was lost
    changes = OrderUnitOfWork(session)
    changes.transition(order, State.FULFILLED)
    order.fulfilled_at = await tenant_rows.database_now(session)
    shares = await repository.shares(session, id_)
    changes.publish(order, "fulfilled", shares)
    if order.released_at is not None:
        complete(changes, order, shares)
    await changes.flush()
    return order


def complete(changes: OrderUnitOfWork, order: Order, shares: Sequence[Share]) -> None:
    changes.transition(order, State.COMPLETED)
    changes.publish(order, "completed", shares)


async def release(changes: OrderUnitOfWork, order: Order, now: datetime) -> None:
    """End the holding period: publish the sellers' earnings to payouts."""
    shares = await repository.shares(changes.session, order.id)
    order.released_at, order.due_at = now, None
    publish_earnings(changes, order, shares)
    if order.state == State.FULFILLED:
        complete(changes, order, shares)


def publish_earnings(changes: OrderUnitOfWork, order: Order, shares: Sequence[Share]) -> None:
    changes.publish_earnings(order, shares, [part(each).owed for each in shares])


@dataclass(frozen=True)
class RefundOrder:
    """A requested refund, with its idempotency key and the caller who requested it."""

    key: str
    by: str
    request: NewRefund


async def refund(session: AsyncSession, tenant: str, id_: str, ordered: RefundOrder) -> Refund:
    """Refund part or all of the order's payment, from its sellers' shares in proportion to what
    remains of them, or from one seller's share.

    Raise `Conflict` if less than that is left or the key was used for another refund, and
    `NotFound` if the seller has no share in the order.
    """
    order = await repository.locked_order(session, tenant, id_)
    request = ordered.request
    refund_id = derived_id("refunds", id_, ordered.key)
    known = await session.get(Refund, refund_id)
    if known is not None:
        same = (
            known.reason == request.reason
            and request.amount in {None, known.amount}
            and (request.seller is None or known.parts.keys() == {request.seller})
        )
        if not same:
            raise Conflict("this Idempotency-Key was used for another refund")
        return known
    if order.state not in SOLD or order.paid_by is None:
        raise Conflict(f"an order that is {order.state} has nothing to refund")
    payment = await session.get_one(Payment, order.paid_by)
    shares = await repository.shares(session, id_)
    chosen = [each for each in shares if request.seller in {None, each.seller}]
    if not chosen:
        raise NotFound(f"the order has no lines of {request.seller}")
    left = [part(each).remaining for each in chosen]
    amount = request.amount if request.amount is not None else sum(left)
    if not 0 < amount <= sum(left):
        held = f"; {order.held} are disputed, or refunded at the provider" if order.held else ""
        raise Conflict(f"{sum(left)} {order.currency} (minor units) are left to refund{held}")
    parts = allocation.allocate(amount, left)
    for share, taken in zip(chosen, parts, strict=True):
        share.refunded += taken
    order.refunded += amount
    row = Refund(
        id=refund_id,
        tenant=tenant,
        order_id=id_,
        payment_id=payment.id,
        checkout_id=payment.checkout_id,
        amount=amount,
        currency=order.currency,
        reason=request.reason,
        parts={each.seller: taken for each, taken in zip(chosen, parts, strict=True)},
        state=RefundState.REQUESTED,
        requests=1,
        created_by=ordered.by,
    )
    session.add(row)
    changes = OrderUnitOfWork(session)
    changes.request_refund(order, row)
    if order.refunded == order.total:
        changes.transition(order, State.REFUNDED)
    changes.publish(order, "refunded", shares, request.reason)
    if order.released_at is not None:
        publish_earnings(changes, order, shares)
    elif order.state == State.REFUNDED:
        order.due_at = None
    await changes.flush()
    await session.flush()
    await session.refresh(row)
    return row


# Longer than all retry delays of a message together.
_REQUEST_LOST_AFTER = timedelta(hours=2)


async def retry_refund(session: AsyncSession, tenant: str, id_: str) -> Refund:
    """Request a refund again that failed, whose outcome is unknown, or whose request may be lost.
    The subscription service looks for an earlier attempt first."""
    row = await tenant_rows.get_for_tenant(session, Refund, tenant, id_)
    order = await repository.locked_order(session, tenant, row.order_id)
    (locked,) = await repository.locked_refunds(session, [id_])
    if locked.state not in {RefundState.REQUESTED, RefundState.FAILED, RefundState.UNKNOWN}:
        raise Conflict(f"a refund that is {locked.state} can't be retried")
    now = await tenant_rows.database_now(session)
    if locked.state == RefundState.REQUESTED and locked.created_at > now - _REQUEST_LOST_AFTER:
        raise Conflict("the refund is in progress: a lost request is repeated after two hours")
    locked.state, locked.requests = RefundState.REQUESTED, locked.requests + 1
    changes = OrderUnitOfWork(session)
    changes.request_refund(order, locked, again=True)
    await changes.flush()
    return locked


async def refund_payment(
    changes: OrderUnitOfWork, order: Order, payment: Payment, amount: int, reason: str
) -> None:
    """Refund money that never belonged to the order, or that exceeds its price."""
    row = Refund(
        id=derived_id("refunds", payment.id, "back"),
        tenant=order.tenant,
        order_id=order.id,
        payment_id=payment.id,
        checkout_id=payment.checkout_id,
        amount=amount,
        currency=payment.currency or order.currency,
        reason=reason,
        parts={},
        state=RefundState.REQUESTED,
        requests=1,
    )
    changes.session.add(row)
    changes.request_refund(order, row)
    shares = await repository.shares(changes.session, order.id)
    changes.publish(order, "refunded", shares, reason)


async def update_holds(changes: OrderUnitOfWork, order: Order, reason: str) -> None:
    """Hold back from the sellers, in proportion to what remains of their shares, what the provider
    reports as disputed or refunded and no refund of ours explains. Earnings that were released are
    taken back, and credited again when the hold ends."""
    if order.paid_by is None:
        return
    payment = await changes.session.get_one(Payment, order.paid_by)
    await changes.session.flush()
    reversals = await repository.reversals(changes.session, payment.checkout_id)
    ours = await repository.refunds(changes.session, order.id)
    held = held_back(
        [Reversed(each.kind, each.status, each.amount) for each in reversals],
        ours=sum(
            each.amount
            for each in ours
            if each.checkout_id == payment.checkout_id and each.state in AT_THE_PROVIDER
        ),
        most=order.total - order.refunded,
    )
    if held == order.held:
        return
    shares = await repository.shares(changes.session, order.id)
    weights = [each.gross - each.refunded for each in shares]
    parts = allocation.allocate(held, weights)
    for share, amount in zip(shares, parts, strict=True):
        share.held = amount
    order.held = held
    changes.publish(order, "hold_changed", shares, reason)
    if order.released_at is not None:
        publish_earnings(changes, order, shares)


def reminder_at(terms: Terms, pay_by: datetime) -> datetime | None:
    """Return the reminder's time (UTC), in the second half of the time to pay; None for never."""
    if not terms.reminder_seconds:
        return None
    return pay_by - timedelta(seconds=min(terms.reminder_seconds, terms.grace_seconds / 2))


def _same(buyers: Buyers, order: Order, request: NewOrder) -> Order:
    if buyers.request(order) != request:
        raise Conflict("this Idempotency-Key was used for another order")
    return order


def part(share: Share) -> allocation.Share:
    return allocation.Share(share.gross, share.refunded, share.fee_basis_points, share.held)


async def _priced(
    session: AsyncSession,
    terms: Terms,
    request: NewOrder,
    now: datetime,
    sources: Sequence[str],
) -> list[Conversion]:
    most_days = terms.oldest_rate_days
    known = await repository.rates(session, on=now.date(), most_days=most_days, sources=sources)
    return [
        convert(
            line.quantity * line.unit_price,
            line.currency or terms.currency,
            terms.currency,
            known,
            on=now.date(),
            most_days=most_days,
        )
        for line in request.lines
    ]


def _lines(order: Order, request: NewOrder, priced: Sequence[Conversion]) -> list[Line]:
    return [
        Line(
            id=derived_id("lines", order.id, str(number)),
            tenant=order.tenant,
            order_id=order.id,
            number=number,
            seller=line.seller,
            description=line.description,
            quantity=line.quantity,
            original_amount=line.quantity * line.unit_price,
            original_currency=line.currency or order.currency,
            rate=price.rate,
            rate_day=price.day,
            rate_source=price.source,
            amount=price.amount,
        )
        for number, (line, price) in enumerate(zip(request.lines, priced, strict=True), start=1)
    ]


def _shares(
    order: Order, request: NewOrder, priced: Sequence[Conversion], terms: Terms
) -> list[Share]:
    gross: dict[str, int] = {}
    for line, price in zip(request.lines, priced, strict=True):
        gross[line.seller] = gross.get(line.seller, 0) + price.amount
    return [
        Share(
            id=share_id(order.id, seller),
            tenant=order.tenant,
            order_id=order.id,
            seller=seller,
            gross=amount,
            fee_basis_points=terms.fee_basis_points,
            refunded=0,
            held=0,
            requested=0,
            requests=0,
        )
        for seller, amount in sorted(gross.items())
    ]

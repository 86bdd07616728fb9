"""HTTP API for placing, paying, fulfilling, refunding and reading orders of the caller's tenant."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import derived_id
from common.db import tenant_rows
from common.errors import Conflict
from common.http.auth import Admin, Operator, Viewer
from common.http.resources import Cursor, IdempotencyKey, Limit, Page, Session, page, provided
from orders import order_service, repository
from orders.api.responses import (
    LineView,
    OrderDetail,
    OrderView,
    PaymentView,
    RefundView,
    ReversalView,
    ShareView,
)
from orders.buyers import Buyers
from orders.clients.checkouts import CheckoutStarter
from orders.domain import CHECKOUT_PURPOSE, UNPAID, RefundState, State
from orders.models import Order, Payment, Refund, Share
from orders.order_service import RefundOrder
from orders.pricing.rate_sources import SOURCES
from orders.schemas import Buyer, NewOrder, NewPayment, NewRefund, ReasonBody, Terms
from orders.unit_of_work import OrderUnitOfWork

orders = APIRouter(prefix="/v1/orders", tags=["orders"])
refunds = APIRouter(prefix="/v1/refunds", tags=["refunds"])
terms = APIRouter(prefix="/v1/terms", tags=["terms"])

ROUTERS = (orders, refunds, terms)

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request cannot be executed as sent: change it"},
    404: {"description": "not found"},
    409: {
        "description": "the resource's state does not permit this, or the key was used for another "
        "request"
    },
}


Sealed = Annotated[Buyers, provided(Buyers)]
Starter = Annotated[CheckoutStarter, provided(CheckoutStarter)]


@orders.post("", status_code=201, responses=_PROBLEMS)
async def place_order(
    caller: Operator,
    session: Session,
    buyers: Sealed,
    body: NewOrder,
    idempotency_key: IdempotencyKey,
) -> OrderDetail:
    async with session.begin():
        order = await order_service.place(
            session, caller.tenant, idempotency_key, body, SOURCES, buyers
        )
        return await _detail(session, order)


@orders.get("")
async def list_orders(
    caller: Viewer,
    session: Session,
    state: State | None = None,
    reference: str | None = None,
    buyer: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[OrderView]:
    filters = {"state": state, "reference": reference, "buyer": buyer}
    return await page(session, Order, OrderView, caller.tenant, filters, cursor, limit)


@orders.get("/{id_}", responses=_PROBLEMS)
async def get_order(caller: Viewer, session: Session, id_: str) -> OrderDetail:
    return await _detail(
        session, await tenant_rows.get_for_tenant(session, Order, caller.tenant, id_)
    )


@orders.post("/{id_}/payments", status_code=201, responses=_PROBLEMS)
async def start_payment(
    caller: Operator,
    request: Request,
    session: Session,
    buyers: Sealed,
    starter: Starter,
    id_: str,
    body: NewPayment,
    idempotency_key: IdempotencyKey,
) -> PaymentView:
    """Start a checkout for the order with a payment provider. Repeating the request with the same
    Idempotency-Key starts no second checkout, even if the first response was lost."""
    async with session.begin():
        order = await repository.locked_order(session, caller.tenant, id_)
        if order.state not in UNPAID:
            raise Conflict(f"an order that is {order.state} can't be paid")
        order.state = State.AWAITING_PAYMENT
        checkout = _checkout(order, buyers.request(order).buyer, body)
    started = await starter.start(
        request.headers.get("authorization", ""),
        derived_id("order checkout", id_, idempotency_key),
        checkout,
    )
    async with session.begin():
        await repository.locked_order(session, caller.tenant, id_)
        values = {
            "id": started["id"],
            "checkout_id": started["id"],
            "tenant": caller.tenant,
            "order_id": id_,
            "provider": body.provider,
            "account": body.account,
            "status": started["status"],
        }
        payment = await repository.save_payment(session, values)
        payment.url = started["url"]
        return PaymentView.model_validate(payment)


@orders.post("/{id_}/fulfil", responses=_PROBLEMS)
async def fulfil_order(caller: Operator, session: Session, id_: str) -> OrderView:
    async with session.begin():
        return await _shown(session, await order_service.fulfil(session, caller.tenant, id_))


@orders.post("/{id_}/cancel", responses=_PROBLEMS)
async def cancel_order(caller: Operator, session: Session, id_: str, why: ReasonBody) -> OrderView:
    """Cancel an unpaid order. A payment that still arrives afterwards is refunded."""
    async with session.begin():
        order = await order_service.cancel(session, caller.tenant, id_, caller.subject, why.reason)
        return await _shown(session, order)


@orders.post("/{id_}/refunds", status_code=202, responses=_PROBLEMS)
async def refund_order(
    caller: Operator,
    session: Session,
    id_: str,
    body: NewRefund,
    idempotency_key: IdempotencyKey,
) -> RefundView:
    """Refund an order in full or in part. Its sellers' payouts are reduced, or reversed if they
    were already made."""
    async with session.begin():
        ordered = RefundOrder(idempotency_key, caller.subject, body)
        row = await order_service.refund(session, caller.tenant, id_, ordered)
        return RefundView.model_validate(row)


@refunds.get("")
async def list_refunds(
    caller: Viewer,
    session: Session,
    state: RefundState | None = None,
    order_id: str | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[RefundView]:
    filters = {"state": state, "order_id": order_id}
    return await page(session, Refund, RefundView, caller.tenant, filters, cursor, limit)


@refunds.post("/{id_}/retry", status_code=202, responses=_PROBLEMS)
async def retry_refund(caller: Operator, session: Session, id_: str) -> RefundView:
    """Retry a refund that failed, whose outcome is unknown, or whose request was lost (still
    `requested` after two hours). An earlier attempt that went through is detected first."""
    async with session.begin():
        row = await order_service.retry_refund(session, caller.tenant, id_)
        return RefundView.model_validate(row)


@refunds.post("/{id_}/confirm", responses=_PROBLEMS)
async def confirm_refund(caller: Operator, session: Session, id_: str) -> RefundView:
    """Mark a `manual` or `failed` refund as paid back manually. A refund that may have been made
    cannot be confirmed: retry it instead."""
    async with session.begin():
        known = await tenant_rows.get_for_tenant(session, Refund, caller.tenant, id_)
        order = await repository.locked_order(session, caller.tenant, known.order_id)
        (row,) = await repository.locked_refunds(session, [id_])
        if row.state not in {RefundState.MANUAL, RefundState.FAILED}:
            raise Conflict(f"a refund that is {row.state} can't be confirmed manually")
        row.state, row.completed_at = RefundState.SUCCEEDED, await tenant_rows.database_now(session)
        row.error = f"paid back manually: {caller.subject}"
        row.provider_refund_id = None  # the failed refund is not the one that returned the money
        changes = OrderUnitOfWork(session)
        await order_service.update_holds(changes, order, "a refund was paid back manually")
        await changes.flush()
        return RefundView.model_validate(row)


@terms.get("")
async def get_terms(caller: Viewer, session: Session) -> Terms:
    return await order_service.terms_of(session, caller.tenant)


@terms.put("")
async def set_terms(caller: Admin, session: Session, body: Terms) -> Terms:
    """Change the terms for orders placed from now on. Omitted fields keep their values."""
    async with session.begin():
        before = await order_service.terms_of(session, caller.tenant)
        after = before.model_copy(update=body.model_dump(exclude_unset=True))
        values = after.model_dump(mode="json")
        await repository.set_terms(session, caller.tenant, values, caller.subject)
    return after


def _checkout(order: Order, buyer: Buyer, body: NewPayment) -> dict[str, Any]:
    """Return the request body for the subscription service's `POST /v1/checkouts`."""
    contact = {"email": buyer.email, "name": buyer.name, "phone": body.phone or buyer.phone}
    return {
        "provider": body.provider,
        "account": body.account,
        "amount": order.total,
        "currency": order.currency,
        "customer": {"reference": order.buyer, **contact},
        "description": f"Order {order.reference}",
        "return_url": str(body.return_url) if body.return_url else None,
        "purpose": f"{CHECKOUT_PURPOSE}{order.id}",
    }


async def _shown(session: AsyncSession, order: Order) -> OrderView:
    await session.flush()
    await session.refresh(order)
    return OrderView.model_validate(order)


async def _detail(session: AsyncSession, order: Order) -> OrderDetail:
    shown = (await _shown(session, order)).model_dump()
    lines = await repository.lines(session, order.id)
    shares = await repository.shares(session, order.id)
    paid: list[Payment] = [*await repository.payments(session, order.id)]
    back: list[Refund] = [*await repository.refunds(session, order.id)]
    reversals = await repository.reversals_of_order(session, order.id)
    return OrderDetail(
        **shown,
        lines=[LineView.model_validate(each) for each in lines],
        shares=[_share(each) for each in shares],
        payments=[PaymentView.model_validate(each) for each in paid],
        refunds=[RefundView.model_validate(each) for each in back],
        reversals=[ReversalView.model_validate(each) for each in reversals],
    )


def _share(row: Share) -> ShareView:
    part = order_service.part(row)
    return ShareView(
        seller=row.seller,
        gross=row.gross,
        refunded=row.refunded,
        held=row.held,
        fee=part.fee,
        owed=part.owed,
        requested=row.requested,
    )

"""Events of one transaction on orders: written with the rows, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event, Payload, derived_id
from common.contracts.orders import OrderChanged, SellerShare
from common.contracts.payments import RefundRequested
from common.contracts.payouts import EarningsAdjustment
from common.messaging import outbox
from common.messaging.events import follow_up_event, new_event
from orders import metrics
from orders.domain import State, require_transition
from orders.models import Order, Refund, Share

SOURCE: Final = "/orders"

PayloadT = TypeVar("PayloadT", bound=Payload)


class OrderUnitOfWork:
    """Collector of one transaction's events. `cause` is the handled event, None for an API call."""

    def __init__(self, session: AsyncSession, cause: Event[Any] | None = None) -> None:
        self.session = session
        self._cause = cause
        self._events: list[Event[Any]] = []

    def transition(self, order: Order, to: State) -> None:
        """Set the order's state. Raise `Conflict` for a transition that is not allowed."""
        require_transition(State(order.state), to)
        order.state = to

    def publish(
        self, order: Order, change: str, shares: Sequence[Share], reason: str | None = None
    ) -> None:
        order.version += 1
        metrics.changes.labels(change).inc()
        data = OrderChanged(
            order_id=order.id,
            reference=order.reference,
            buyer=order.buyer,
            state=order.state,
            currency=order.currency,
            total=order.total,
            refunded=order.refunded,
            held=order.held,
            shares=[
                SellerShare(
                    seller=each.seller,
                    gross=each.gross,
                    refunded=each.refunded,
                    held=each.held,
                )
                for each in shares
            ],
            reason=reason,
        )
        self._emit(f"order.{change}", data, order, order.id, order.version)

    def request_refund(self, order: Order, refund: Refund, *, again: bool = False) -> None:
        data = RefundRequested(
            refund_id=refund.id,
            checkout_id=refund.checkout_id,
            amount=refund.amount,
            currency=refund.currency,
            reason=refund.reason,
            again=again,
        )
        self._emit("refund.requested", data, order, refund.id, refund.requests)

    def publish_earnings(self, order: Order, shares: Sequence[Share], owed: Sequence[int]) -> None:
        """Publish to payouts the difference between each seller's `owed` total and the total
        requested so far."""
        for share, whole in zip(shares, owed, strict=True):
            more = whole - share.requested
            if not more:
                continue
            share.requested = whole
            share.requests += 1
            data = EarningsAdjustment(
                request_id=derived_id("earnings", share.id, str(share.requests)),
                recipient=share.seller,
                amount=abs(more),
                currency=order.currency,
                reason=f"order {order.reference}",
            )
            type_ = "earnings.credit" if more > 0 else "earnings.reverse"
            self._emit(type_, data, order, share.id, share.requests)

    async def flush(self) -> None:
        """Enqueue the collected events; this is the transaction's last step."""
        events, self._events = self._events, []
        await outbox.enqueue(self.session, events)

    def _emit(
        self, type_: str, data: Payload, order: Order, subject: str, sequence: int | None = None
    ) -> None:
        if self._cause is not None:
            event: Event[Any] = follow_up_event(
                self._cause,
                type=type_,
                source=SOURCE,
                subject=subject,
                data=data,
                sequence=sequence,
                tenant=order.tenant,
            )
        else:
            event = new_event(
                id=derived_id(type_, subject, str(sequence)),
                type=type_,
                source=SOURCE,
                subject=subject,
                tenant=order.tenant,
                correlationid=order.id,
                sequence=sequence,
                data=data,
            )
        self._events.append(event)

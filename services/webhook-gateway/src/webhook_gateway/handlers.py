"""Handlers that start polling a payment, upon a checkout of ours or a provider's notification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from common.contracts.event import Event
from common.contracts.payments import CheckoutStarted, UnverifiedPaymentNotification
from common.messaging.outbox import UnitOfWork
from common.messaging.transactional_consumer import Handler
from common.observability.logging import get_logger
from webhook_gateway import repository
from webhook_gateway.domain import FIRST_POLL
from webhook_gateway.models import payment_id
from webhook_gateway.providers.pollable import PollableProvider
from webhook_gateway.providers.registry import PROVIDERS

log = get_logger(__name__)

# For a payment that no checkout announced; it is polled only a few times, see `domain`.
_UNANNOUNCED_EXPIRES_AFTER = timedelta(hours=1)
_POLLED = {name: kind for name, kind in PROVIDERS.items() if issubclass(kind, PollableProvider)}
_NOTIFIES_BY_SECRET = frozenset(name for name, kind in _POLLED.items() if kind.notifies_by_secret)
_CHARGE_AGAIN = frozenset(name for name, kind in _POLLED.items() if kind.charges_again)


class Handlers:
    """The event handlers. `wake` is called when a payment can be polled now."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    async def on_checkout_started(self, work: UnitOfWork, event: Event[CheckoutStarted]) -> None:
        started = event.data
        if started.provider not in _POLLED:
            return  # its webhooks prove themselves; Stripe also has an event list
        await repository.watch_payment(
            work.session,
            {
                "id": _id(event, started.provider, started.endpoint, started.reference),
                "tenant": event.tenant,
                "provider": started.provider,
                "endpoint": started.endpoint,
                "reference": started.reference,
                "notification_reference": started.notification_reference,
                "lookup": started.lookup,
                "amount": started.amount,
                "currency": started.currency,
                "correlation_id": event.correlationid,
                "cause_id": event.id,
                "expires_at": started.expires_at,
                "next_poll_at": event.recordedtime + FIRST_POLL,
            },
        )

    async def on_notification(
        self, work: UnitOfWork, event: Event[UnverifiedPaymentNotification]
    ) -> None:
        notification = event.data
        if notification.provider in _NOTIFIES_BY_SECRET:
            known = await repository.record_notification_by_secret(
                work.session,
                event.tenant,
                notification.provider,
                notification.endpoint,
                notification.reference,
            )
            if not known:
                log.info("notification_for_unknown_payment", provider=notification.provider)
        else:
            await repository.record_notification(
                work.session,
                {
                    "id": _id(
                        event, notification.provider, notification.endpoint, notification.reference
                    ),
                    "tenant": event.tenant,
                    "provider": notification.provider,
                    "endpoint": notification.endpoint,
                    "reference": notification.reference,
                    "correlation_id": event.correlationid,
                    "cause_id": event.id,
                    "expires_at": event.recordedtime + _UNANNOUNCED_EXPIRES_AFTER,
                },
                again=notification.provider in _CHARGE_AGAIN,
            )
        self._wake()

    def by_event(self) -> Mapping[str, Handler]:
        return {
            "checkout.started": self.on_checkout_started,
            "payment.notification_received": self.on_notification,
        }


def _id(event: Event[Any], provider: str, endpoint: str, reference: str) -> str:
    return payment_id(event.tenant, provider, endpoint, reference)

"""What makes the worker ask: a checkout of ours, or somebody's hint."""

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
from webhook_gateway.domain import FIRST_ASK
from webhook_gateway.models import payment_id
from webhook_gateway.providers.pollable import PollableProvider
from webhook_gateway.providers.registry import PROVIDERS

log = get_logger(__name__)

# A hint that nobody announced is asked about a few times only, see domain.step.
_HINT_EXPIRES = timedelta(hours=1)
_ASKED = {name: kind for name, kind in PROVIDERS.items() if issubclass(kind, PollableProvider)}
_HINTS_BY_SECRET = frozenset(name for name, kind in _ASKED.items() if kind.hints_by_secret)
_CHARGE_AGAIN = frozenset(name for name, kind in _ASKED.items() if kind.charges_again)


class Handlers:
    """`wake` is called when there is something new to ask."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    async def on_checkout_started(self, work: UnitOfWork, event: Event[CheckoutStarted]) -> None:
        started = event.data
        if started.provider == "stripe":
            return  # has an event list, which is read instead
        await repository.watch_payment(
            work.session,
            {
                "id": _id(event, started.provider, started.endpoint, started.reference),
                "tenant": event.tenant,
                "provider": started.provider,
                "endpoint": started.endpoint,
                "reference": started.reference,
                "hint_reference": started.hint_reference,
                "lookup": started.lookup,
                "amount": started.amount,
                "currency": started.currency,
                "correlation_id": event.correlationid,
                "cause_id": event.id,
                "expires_at": started.expires_at,
                "ask_at": event.recordedtime + FIRST_ASK,
            },
        )

    async def on_hint(self, work: UnitOfWork, event: Event[UnverifiedPaymentNotification]) -> None:
        hint = event.data
        if hint.provider in _HINTS_BY_SECRET:
            known = await repository.record_notification_by_secret(
                work.session, event.tenant, hint.provider, hint.endpoint, hint.reference
            )
            if not known:
                log.info("notification_for_unknown_payment", provider=hint.provider)
        else:
            await repository.record_notification(
                work.session,
                {
                    "id": _id(event, hint.provider, hint.endpoint, hint.reference),
                    "tenant": event.tenant,
                    "provider": hint.provider,
                    "endpoint": hint.endpoint,
                    "reference": hint.reference,
                    "correlation_id": event.correlationid,
                    "cause_id": event.id,
                    "expires_at": event.recordedtime + _HINT_EXPIRES,
                },
                settled=hint.provider in _CHARGE_AGAIN,
            )
        self._wake()

    def by_event(self) -> Mapping[str, Handler]:
        return {
            "checkout.started": self.on_checkout_started,
            "payment.notification_received": self.on_hint,
        }


def _id(event: Event[Any], provider: str, endpoint: str, reference: str) -> str:
    return payment_id(event.tenant, provider, endpoint, reference)

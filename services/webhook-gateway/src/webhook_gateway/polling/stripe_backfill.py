"""Backfill of events that Stripe could not deliver, by comparing its event list with the journal.

An event received by webhook is in the journal under the same id, so it is not published again; if
it were, every inbox would drop the duplicate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy.exc
import stripe
from pydantic_core import from_json, to_json
from stripe.params import EventListParams

from common.background import PeriodicTask
from common.clients.json_api import excerpt
from common.contracts.event import Event
from common.contracts.payments import CheckoutCompleted, PaymentLinked, PaymentOutcome
from common.contracts.topology import JOURNAL_DAYS
from common.db.database import Sessions
from common.errors import Unavailable, describe
from common.messaging import outbox
from common.messaging.connection import BrokerConnection
from common.messaging.journal import read_to_now
from common.messaging.publisher import Publisher
from common.observability.logging import get_logger
from common.observability.redaction import Redactor
from webhook_gateway import metrics, repository
from webhook_gateway.delivery.dead_letters import dead_letter_webhook
from webhook_gateway.providers.base import Authentication, UntranslatableWebhook
from webhook_gateway.providers.endpoint_registry import EndpointRegistry
from webhook_gateway.providers.stripe import Stripe

log = get_logger(__name__)

_LOOP_SECONDS = 1.0
# The longest period of the list that is read in one step.
_LONGEST_WINDOW = timedelta(hours=1)
_CLOCKS_DIFFER = timedelta(minutes=5)
_PAGE = 100
_POLLED = Authentication("requery")


class StripeBackfill(PeriodicTask):
    """The backfill of one worker process; one row per endpoint decides which worker reads its list.
    `grace` is how long a webhook may take until it counts as missed, `pause` the read interval."""

    def __init__(
        self,
        sessions: Sessions,
        routes: EndpointRegistry,
        broker: BrokerConnection,
        publisher: Publisher,
        *,
        redact: Redactor,
        grace: timedelta,
        pause: timedelta,
    ) -> None:
        self._sessions = sessions
        self._routes = routes
        self._broker = broker
        self._publisher = publisher
        self._redact = redact
        self._grace = grace
        self._pause = pause
        super().__init__(_LOOP_SECONDS)

    async def step(self) -> bool:
        for provider in self._routes.all():
            if isinstance(provider, Stripe) and provider.options.api_key.get_secret_value():
                await self._look(provider)
        return False

    async def _look(self, provider: Stripe) -> None:
        path = provider.endpoint.path
        try:
            async with self._sessions.begin() as session:
                claimed = await repository.claim_event_list(session, path, self._pause)
            if claimed is not None:
                await self._heal(provider, *claimed)
        except (sqlalchemy.exc.SQLAlchemyError, stripe.StripeError, Unavailable) as error:
            said = excerpt(describe(error), self._redact)
            log.warning("stripe_event_list_failed", endpoint=path, error=said)
        except Exception:
            log.exception("stripe_event_list_failed", endpoint=path)

    async def _heal(self, provider: Stripe, read_to: datetime, now: datetime) -> None:
        start = max(read_to, now - timedelta(days=JOURNAL_DAYS))
        if start > read_to:
            log.error("stripe_backfill_gap", before=start.isoformat())
        end = min(now - self._grace, start + _LONGEST_WINDOW)
        if end <= start:
            return
        # Overlaps the period read before: an event may appear late, and clocks differ.
        listed = await _list(provider, start - _CLOCKS_DIFFER, end)
        missing = listed
        if listed:
            known = await self._known(provider.source, start - 2 * _CLOCKS_DIFFER)
            missing = [each for each in listed if each["id"] not in known]
        events = [
            event for each in missing for event in await self._translate(provider, each, start)
        ]
        async with self._sessions.begin() as session:
            await outbox.enqueue(session, events)
            await repository.move_event_cursor(session, provider.endpoint.path, end)
        metrics.recovered.labels(provider.name).inc(len(_paid(events)))
        if events:
            log.warning(
                "missed_webhooks_published", endpoint=provider.endpoint.path, events=len(events)
            )

    async def _known(self, source: str, start: datetime) -> set[str]:
        """Return the ids of this endpoint's events in the journal."""
        mark = f'"source":"{source}"'.encode()
        found: set[str] = set()
        async for entry in read_to_now(self._broker, self._publisher, start=start):
            if mark not in entry.body:
                continue
            try:
                event = from_json(entry.body)
                if event["source"] == source:  # and not only its data, which senders control
                    found.add(event["id"])
            except (ValueError, LookupError, TypeError):
                log.warning("journal_entry_invalid", offset=entry.offset)
        return found

    async def _translate(
        self, provider: Stripe, event: dict[str, Any], start: datetime
    ) -> Sequence[Event[Any]]:
        body = to_json(event)
        try:
            return provider.translate(body, _POLLED)
        except UntranslatableWebhook as error:
            if event.get("created", 0) >= int(start.timestamp()):  # otherwise already dead-lettered
                await dead_letter_webhook(
                    self._publisher.publish, provider, body, error, self._redact
                )
            return ()


def _paid(events: Sequence[Event[Any]]) -> set[str]:
    """Return the ids of the payments that succeeded by these events. Several events report the
    same payment: of an invoice, its payment intent and the charge; of a session, its payment
    intent."""
    found, linked = set(), set()
    for event in events:
        match event.data:
            case PaymentOutcome() if event.type == "payment.succeeded":
                found.add(event.data.payment_id)
            case CheckoutCompleted(paid=True, mode="payment"):
                found.add(event.data.payment_id or event.data.checkout_id)
            case PaymentLinked():
                linked.update(event.data.references)
    return found - linked


async def _list(provider: Stripe, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """Return the events created in this period, oldest first."""
    http = stripe.HTTPXClient(timeout=30)
    client = stripe.StripeClient(
        provider.options.api_key.get_secret_value(),
        http_client=http,
        base_addresses={"api": str(provider.options.base_url).rstrip("/")},
    )
    try:
        seconds = {"gte": int(start.timestamp()), "lt": int(end.timestamp()) + 1}
        parameters: EventListParams = {"created": seconds, "limit": _PAGE}  # type: ignore[typeddict-item]
        page = await client.v1.events.list_async(parameters)
        found = [event.to_dict() async for event in page.auto_paging_iter()]
    finally:
        await http.close_async()  # type: ignore[no-untyped-call]
    return found[::-1]

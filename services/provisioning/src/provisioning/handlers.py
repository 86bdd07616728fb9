"""Handlers of other services' subscription and customer events, for the organization concerned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event
from common.contracts.provisioning import ReconcileOrganization
from common.contracts.subscriptions import CustomerChanged, SubscriptionChanged
from common.db import tenant_rows
from common.errors import Busy, Permanent
from common.messaging.outbox import UnitOfWork
from common.messaging.transactional_consumer import Handler
from common.resilience.call_guard import CircuitOpen
from provisioning import domain, repository
from provisioning.domain import Status, SubscriptionState
from provisioning.models import Integration, Subscription, integration_id
from provisioning.provisioner import Provisioner, status_of


class Handlers:
    """Handlers that depend on whether the integration is switched on."""

    def __init__(self, provisioner: Provisioner) -> None:
        self._provisioner = provisioner

    def by_event(self) -> Mapping[str, Handler]:
        return {
            "subscription.activated": self.on_subscription,
            "subscription.suspended": self.on_subscription,
            "subscription.cancelled": self.on_subscription,
            "customer.changed": self.on_customer_changed,
        }

    async def on_subscription(self, work: UnitOfWork, event: Event[SubscriptionChanged]) -> None:
        row = await _integration(work.session, event)
        subscription = await work.session.get_one(Subscription, event.data.subscription_id)
        if subscription.tenant != event.tenant:
            raise Permanent("the subscription belongs to another tenant")
        sequence = event.sequence or 0
        if sequence > subscription.sequence:
            subscription.sequence = sequence
            subscription.active = event.type == "subscription.activated"
        _update_contact(row, event.data.contact, event.data.contact_sequence)
        self._update_desired_state(work, row, event)

    async def on_customer_changed(self, work: UnitOfWork, event: Event[CustomerChanged]) -> None:
        row = await _integration(work.session, event)
        _update_contact(row, event.data.contact, event.sequence or 0)
        self._update_desired_state(work, row, event)

    async def on_organization_requested(self, event: Event[ReconcileOrganization]) -> None:
        try:
            await self._provisioner.reconcile(event.data.integration_id, event)
        except CircuitOpen as error:  # no call was made: no attempt is used up
            raise Busy(str(error), error.retry_after) from error

    def _update_desired_state(self, work: UnitOfWork, row: Integration, event: Event[Any]) -> None:
        """Update the desired state after an event, and request an operation if one is due."""
        row.desired_state = domain.desired_state(
            SubscriptionState(each.active) for each in row.subscriptions
        )
        row.correlation_id = event.correlationid
        # A pending integration has an open request, whose handler reads the desired state.
        if row.status != Status.PENDING:
            request(work, row, event, enabled=self._provisioner.enabled)


def request(work: UnitOfWork, row: Integration, cause: Event[Any], *, enabled: bool) -> None:
    """Request reconciliation of the (locked) integration, unless integrations are switched off."""
    row.status = status_of(row, enabled=enabled)
    if row.status == Status.PENDING:
        work.emit(
            "organization.reconcile",
            ReconcileOrganization(integration_id=row.id),
            subject=row.id,
            cause=cause,
            tenant=row.tenant,
            correlation_id=row.correlation_id,
        )


async def prepare(session: AsyncSession, events: Sequence[Event[Any]]) -> None:
    """Lock every row that the batch touches, in one query per table, always in the same order."""
    integrations, subscriptions = {}, {}
    for event in events:
        id_ = integration_id(event.tenant, event.data.customer_id)
        integrations[id_] = {"tenant": event.tenant, "customer_id": event.data.customer_id}
        if isinstance(event.data, SubscriptionChanged):
            subscriptions[event.data.subscription_id] = {
                "tenant": event.tenant,
                "integration_id": id_,
            }
    await tenant_rows.lock_or_insert(session, Integration, integrations)
    await tenant_rows.lock_or_insert(session, Subscription, subscriptions)
    await repository.load_subscriptions(session, integrations)


async def _integration(
    session: AsyncSession, event: Event[SubscriptionChanged] | Event[CustomerChanged]
) -> Integration:
    return await session.get_one(Integration, integration_id(event.tenant, event.data.customer_id))


def _update_contact(row: Integration, contact: Any, sequence: int) -> None:
    if sequence >= row.contact_sequence:
        row.contact_sequence = sequence
        row.email, row.name = contact.email, contact.name

"""What each event does, and what each job does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from common import rows
from common.contracts.event import Event
from common.contracts.jobs import JobDue
from common.contracts.provisioning import OrganizationRequested
from common.contracts.subscriptions import CustomerChanged, SubscriptionChanged
from common.errors import Busy
from common.gate import CircuitOpen
from common.logs import get_logger
from common.messaging.outbox import Work
from common.messaging.transactional import Handler
from common.scheduler import Every, Schedule
from provisioning import domain, metrics, repository
from provisioning.domain import Status, Subscribed
from provisioning.models import Integration, Subscription, integration_id
from provisioning.provisioner import Provisioner, status_of

log = get_logger(__name__)

HEALTH_WINDOW = timedelta(minutes=30)
_JOB_BATCH = 1000


class Handlers:
    """The functions that need to know whether the integration is switched on."""

    def __init__(self, provisioner: Provisioner) -> None:
        self._provisioner = provisioner

    def by_event(self) -> Mapping[str, Handler]:
        return {
            "subscription.activated": self.on_subscription,
            "subscription.suspended": self.on_subscription,
            "subscription.cancelled": self.on_subscription,
            "customer.changed": self.on_customer_changed,
        }

    def schedule(self) -> Sequence[Schedule]:
        return (
            Schedule("retry-failed", Every(timedelta(hours=1)), self.retry_failed),
            Schedule("release-parked", Every(timedelta(minutes=1)), self.release_parked),
            Schedule("health-check", Every(HEALTH_WINDOW), check_health),
        )

    async def on_subscription(self, work: Work, event: Event[SubscriptionChanged]) -> None:
        row = await _integration(work.session, event)
        subscription = await work.session.get_one(Subscription, event.data.subscription_id)
        sequence = event.sequence or 0
        if sequence > subscription.sequence:
            subscription.sequence = sequence
            subscription.active = event.type == "subscription.activated"
        _take_contact(row, event.data.contact, event.data.contact_sequence)
        self._decide(work, row, event)

    async def on_customer_changed(self, work: Work, event: Event[CustomerChanged]) -> None:
        row = await _integration(work.session, event)
        _take_contact(row, event.data.contact, event.sequence or 0)
        self._decide(work, row, event)

    async def on_organization_requested(self, event: Event[OrganizationRequested]) -> None:
        try:
            await self._provisioner.bring_up_to_date(event.data.integration_id, event)
        except CircuitOpen as error:  # nothing was tried: that uses up no attempt
            raise Busy(str(error), error.retry_after) from error

    async def retry_failed(self, work: Work, event: Event[JobDue]) -> str:
        """Hourly: what failed, or was lost, and is still due is tried again."""
        return f"{await self._request_again(work, event, repository.to_try_again())} requested"

    async def release_parked(self, work: Work, event: Event[JobDue]) -> str:
        """After the integration was switched on again: what was parked meanwhile is done."""
        if not self._provisioner.enabled:
            return "the integration is switched off (BACKEND_INTEGRATION_ENABLED)"
        return f"{await self._request_again(work, event, repository.parked())} requested"

    async def _request_again(
        self, work: Work, event: Event[JobDue], query: Select[Integration]
    ) -> int:
        found = await repository.lock_some(work.session, query, _JOB_BATCH)
        for row in found:
            self.request(work, row, event)
        return len(found)

    def request(self, work: Work, row: Integration, cause: Event[Any]) -> None:
        """Have a worker bring the (locked) integration up to date, unless it is switched off."""
        row.status = status_of(row, enabled=self._provisioner.enabled)
        if row.status == Status.PENDING:
            work.emit(
                "organization.requested",
                OrganizationRequested(integration_id=row.id),
                subject=row.id,
                cause=cause,
                tenant=row.tenant,
            )

    def _decide(self, work: Work, row: Integration, event: Event[Any]) -> None:
        """What is wanted after the event, and whether somebody has to do something about it."""
        row.wanted = domain.wanted(Subscribed(each.active) for each in row.subscriptions)
        # While it is pending a request is under way, and whoever serves it looks at what is wanted.
        if row.status != Status.PENDING:
            self.request(work, row, event)


async def check_health(work: Work, _: Event[JobDue]) -> str:
    """Every half hour: warn when more than a tenth of the window's attempts failed."""
    finished, failed = await repository.attempts_finished(work.session, HEALTH_WINDOW)
    metrics.failure_ratio.set(failed / finished if finished else 0)
    result = f"{failed} of {finished} attempts failed"
    if domain.too_many_failed(failed, finished):
        log.warning("provisioning is unhealthy", failed=failed, finished=finished)
        return f"unhealthy: {result}"
    return f"healthy: {result}"


async def prepare(session: AsyncSession, events: Sequence[Event[Any]]) -> None:
    """Lock, in one go per table and always in the same order, every row that the batch touches."""
    integrations, subscriptions = {}, {}
    for event in events:
        id_ = integration_id(event.tenant, event.data.customer_id)
        integrations[id_] = {"tenant": event.tenant, "customer_id": event.data.customer_id}
        if isinstance(event.data, SubscriptionChanged):
            subscriptions[event.data.subscription_id] = {
                "tenant": event.tenant,
                "integration_id": id_,
            }
    await rows.lock(session, Integration, integrations)
    await rows.lock(session, Subscription, subscriptions)
    await repository.load_subscriptions(session, integrations)


async def _integration(
    session: AsyncSession, event: Event[SubscriptionChanged] | Event[CustomerChanged]
) -> Integration:
    return await session.get_one(Integration, integration_id(event.tenant, event.data.customer_id))


def _take_contact(row: Integration, contact: Any, sequence: int) -> None:
    if sequence >= row.contact_sequence:
        row.contact_sequence = sequence
        row.email, row.name = contact.email, contact.name

"""Scheduled jobs: requesting failed and parked integrations again, and monitoring failures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Select

from common.contracts.event import Event
from common.contracts.jobs import RunJob
from common.messaging.outbox import UnitOfWork
from common.observability.logging import get_logger
from common.scheduling.scheduler import Every, Schedule
from provisioning import domain, metrics, repository
from provisioning.handlers import request
from provisioning.models import Integration
from provisioning.provisioner import Provisioner

log = get_logger(__name__)

SERVICE = "provisioning"

HEALTH_WINDOW = timedelta(minutes=30)
_MAX_ROWS = 1000


class Jobs:
    def __init__(self, provisioner: Provisioner) -> None:
        self._provisioner = provisioner

    def schedule(self) -> Sequence[Schedule]:
        return (
            Schedule("retry-failed", Every(timedelta(hours=1)), self.retry_failed),
            Schedule("release-parked", Every(timedelta(minutes=1)), self.release_parked),
            Schedule("health-check", Every(HEALTH_WINDOW), check_health),
        )

    async def retry_failed(self, work: UnitOfWork, event: Event[RunJob]) -> str:
        """Request integrations that failed, or whose request was lost, and that are still due."""
        return f"{await self._request_again(work, event, repository.to_try_again())} requested"

    async def release_parked(self, work: UnitOfWork, event: Event[RunJob]) -> str:
        """Request integrations that were parked while the backend API was switched off."""
        if not self._provisioner.enabled:
            return "the integration is switched off (BACKEND_INTEGRATION_ENABLED)"
        return f"{await self._request_again(work, event, repository.parked())} requested"

    async def _request_again(
        self, work: UnitOfWork, event: Event[RunJob], query: Select[Integration]
    ) -> int:
        found = await repository.lock_some(work.session, query, _MAX_ROWS)
        for row in found:
            request(work, row, event, enabled=self._provisioner.enabled)
        return len(found)


async def check_health(work: UnitOfWork, _: Event[RunJob]) -> str:
    """Warn when more than a tenth of the window's attempts failed."""
    finished, failed = await repository.attempts_finished(work.session, HEALTH_WINDOW)
    metrics.failure_ratio.set(failed / finished if finished else 0)
    result = f"{failed} of {finished} attempts failed"
    if domain.too_many_failed(failed, finished):
        log.warning("provisioning_unhealthy", failed=failed, finished=finished)
        return f"unhealthy: {result}"
    return f"healthy: {result}"

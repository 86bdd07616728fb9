"""Brings an organization to its desired state, one call at a time, saving each intent first.

Safe to run concurrently for the same integration: a lease lets only one process call.
"""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event
from common.contracts.provisioning import OrganizationChanged
from common.db.database import Sessions
from common.errors import Busy
from common.messaging.outbox import UnitOfWork
from common.observability.redaction import Redactor
from common.resilience.call_guard import CallGuard, CircuitOpen
from provisioning import domain, metrics, repository
from provisioning.clients.backend import Backend, BackendFailed
from provisioning.domain import Operation, Organization, Status
from provisioning.models import Integration

SOURCE = "/provisioning"

# Seconds between the latest end of a call and the end of its lease.
_LEASE_MARGIN_SECONDS = 2
_BUSY_RETRY_SECONDS = 5
_LONGEST_ERROR = 2_000
_LONGEST_STACK = 16_000


@dataclass(frozen=True)
class Intent:
    """An operation about to be run, as committed before its call.

    `deadline`, by the event loop's clock, is when the call is cancelled: before its lease ends.
    """

    integration_id: str
    operation: Operation
    organization_id: str | None
    email: str
    name: str
    lease: str
    attempt_id: int
    outcome_unknown: bool
    late_calls: int
    admin_created: bool
    deadline: float


class Provisioner:
    """`timeout` (seconds) limits all calls of one operation together. With `look_first` the backend
    API is queried before any creation, even without a record of an earlier one."""

    def __init__(
        self,
        sessions: Sessions,
        backend: Backend,
        gate: CallGuard,
        *,
        enabled: bool,
        look_first: bool,
        timeout: float,
        redact: Redactor,
    ) -> None:
        self._sessions = sessions
        self._backend = backend
        self._gate = gate
        self.enabled = enabled
        self._look_first = look_first
        self.timeout = timeout
        self._redact = redact

    async def reconcile(self, integration_id: str, cause: Event[Any]) -> None:
        """Run operations until none is due: the desired state may change meanwhile.

        Raises `Busy` while another process runs one, `CircuitOpen` while the backend API is not
        called, and what `Backend` raises.
        """
        while await self._run_operation(integration_id, cause):
            pass

    async def _run_operation(self, integration_id: str, cause: Event[Any]) -> bool:
        """Run one operation. Return False if none was due."""
        async with self._gate.admit():
            intent = await self._begin(integration_id)
            if intent is None:
                return False
            try:
                async with asyncio.timeout_at(intent.deadline), self._gate.call():
                    organization_id = await self._call(intent)
            except CircuitOpen:
                await self._discard_intent(intent)
                raise
            except TimeoutError as error:
                failure = BackendFailed(
                    f"{intent.operation}: the back end took more than {self.timeout:g} s"
                )
                await self._failed(intent, failure)
                raise failure from error
            except Exception as error:
                await self._failed(intent, error)
                raise
            await self._succeeded(intent, organization_id, cause)
            return True

    async def give_up(self, work: UnitOfWork, cause: Event[Any], error: BaseException) -> None:
        """Record and publish the failure after the last attempt. Idempotent."""
        row = await repository.lock_integration(work.session, cause.data.integration_id)
        if operation_of(row) is None:  # another process has completed it meanwhile
            row.status = status_of(row, enabled=self.enabled)
            return
        row.status = Status.FAILED
        row.error = self._text(error)
        if row.failed_event_id != cause.id:
            row.failed_event_id = cause.id
            _announce(
                work,
                row,
                "organization.failed",
                cause,
                error=self._redact.beginning(str(error), _LONGEST_ERROR),
            )

    def _text(self, error: BaseException) -> str:
        """Return the stack trace, redacted. NUL, which a response may contain, is escaped:
        PostgreSQL can't store it."""
        stack = "".join(traceback.format_exception(error)).replace("\x00", "\\x00")
        return self._redact.end(stack, _LONGEST_STACK)

    async def _begin(self, integration_id: str) -> Intent | None:
        async with self._sessions.begin() as session:
            row = await repository.lock_integration(session, integration_id)
            # Both times are read only now, since the lock may have been waited for. The lease uses
            # the database's clock, which all workers share.
            deadline = asyncio.get_running_loop().time() + self.timeout
            now = await repository.database_now(session)
            row.status = status_of(row, enabled=self.enabled)
            if row.status != Status.PENDING:
                return None
            if row.lease_until is not None and row.lease_until > now:
                raise Busy(
                    f"another process provisions {integration_id}; its lease ends at the latest "
                    f"{row.lease_until.isoformat()}",
                    retry_after=_BUSY_RETRY_SECONDS,
                )
            operation = operation_of(row)
            assert operation is not None
            intent = Intent(
                integration_id=row.id,
                operation=operation,
                organization_id=row.organization_id,
                email=row.email or "",
                name=row.name or row.email or "",
                lease=str(uuid4()),
                attempt_id=await repository.start_attempt(session, row.id, operation),
                outcome_unknown=row.outcome_unknown,
                late_calls=row.late_calls,
                admin_created=row.admin_created,
                deadline=deadline,
            )
            row.lease = intent.lease
            row.lease_until = now + timedelta(seconds=self.timeout + _LEASE_MARGIN_SECONDS)
            row.outcome_unknown = True
        return intent

    async def _call(self, intent: Intent) -> str | None:
        """Return the organization's id, or None when it turns out that none exists."""
        if intent.operation is Operation.CREATE:
            return await self._create(intent)
        organization = intent.organization_id
        if organization is None:
            organization = await self._backend.find_organization(intent.integration_id)
        if organization is None:
            return None
        if intent.operation is Operation.RESUME and not intent.admin_created:
            # It was suspended before its creation added the admin.
            await self._give_admin(intent, organization, look_first=True)
        await self._backend.set_status(organization, intent.operation.result)
        return organization

    async def _create(self, intent: Intent) -> str:
        organization, look_first = None, intent.outcome_unknown or self._look_first
        if look_first:
            organization = await self._backend.find_organization(intent.integration_id)
        if organization is None:
            organization = await self._backend.create_organization(
                intent.integration_id, intent.name
            )
        await self._give_admin(intent, organization, look_first=look_first)
        return organization

    async def _give_admin(self, intent: Intent, organization: str, *, look_first: bool) -> None:
        if look_first and await self._backend.has_user(organization, intent.email):
            return
        await self._backend.create_admin(
            organization, intent.integration_id, intent.email, intent.name
        )

    async def _succeeded(
        self, intent: Intent, organization_id: str | None, cause: Event[Any]
    ) -> None:
        async with self._sessions.begin() as session:
            await _finish(session, intent, "succeeded", None)
            row = await repository.lock_integration(session, intent.integration_id)
            if row.lease != intent.lease:
                _repeat(row)
                return
            row.lease = row.lease_until = row.error = None
            row.outcome_unknown = row.late_calls != intent.late_calls
            row.organization_id = organization_id
            row.observed_state = intent.operation.result if organization_id else Organization.ABSENT
            row.status = status_of(row, enabled=self.enabled)
            if organization_id is None:
                return
            suspended = intent.operation is Operation.SUSPEND
            row.admin_created |= not suspended
            work = UnitOfWork(session, SOURCE)
            kind = "organization.suspended" if suspended else "organization.provisioned"
            _announce(work, row, kind, cause)
            await work.flush()

    async def _discard_intent(self, intent: Intent) -> None:
        """Delete the attempt, since nothing was sent."""
        async with self._sessions.begin() as session:
            await repository.forget_attempt(session, intent.attempt_id)
            row = await repository.lock_integration(session, intent.integration_id)
            if row.lease == intent.lease:
                row.lease = row.lease_until = None
                late = row.late_calls != intent.late_calls
                row.outcome_unknown = intent.outcome_unknown or late

    async def _failed(self, intent: Intent, error: BaseException) -> None:
        text = self._text(error)
        async with self._sessions.begin() as session:
            await _finish(session, intent, "failed", text)
            row = await repository.lock_integration(session, intent.integration_id)
            if row.lease == intent.lease:
                row.lease = row.lease_until = None
                row.error = text
            else:
                _repeat(row)


def _repeat(row: Integration) -> None:
    """Record a call that ended after another process had taken over, perhaps after that process's
    own call: timeouts stand still on a suspended machine. The desired state is set again."""
    row.late_calls += 1
    row.outcome_unknown = True


async def _finish(session: AsyncSession, intent: Intent, outcome: str, error: str | None) -> None:
    await repository.finish_attempt(session, intent.attempt_id, outcome, error)
    metrics.operations.labels(intent.operation, outcome).inc()


def operation_of(row: Integration) -> Operation | None:
    return domain.next_operation(
        Organization(row.desired_state),
        Organization(row.observed_state),
        unknown=row.outcome_unknown,
    )


def status_of(row: Integration, *, enabled: bool) -> Status:
    return domain.status(
        Organization(row.desired_state),
        Organization(row.observed_state),
        unknown=row.outcome_unknown,
        contact_known=bool(row.email),
        enabled=enabled,
    )


def _announce(
    work: UnitOfWork, row: Integration, type_: str, cause: Event[Any], error: str | None = None
) -> None:
    row.version += 1
    work.emit(
        type_,
        OrganizationChanged(
            integration_id=row.id,
            customer_id=row.customer_id,
            organization_id=row.organization_id,
            error=error,
        ),
        subject=row.id,
        sequence=row.version,
        cause=cause,
        tenant=row.tenant,
    )

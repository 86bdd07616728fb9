"""Commands on subscriptions and customers at Stripe: stored, executed, and confirmed by a webhook.

A subscription's state always follows webhooks, so the order of a command's response and its webhook
does not matter. A caller learns that a command is done; or that it is accepted, and then it is
executed once, by the job if necessary; or that it is not done, and then it never will be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any

import sqlalchemy.exc
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession, async_object_session

from common.clients.json_api import excerpt
from common.clients.stripe import IdempotencyKeyConsumed
from common.contracts.event import Event, derived_id
from common.contracts.jobs import RunJob
from common.contracts.subscriptions import ProviderSubscription, ResumeBillingCommand
from common.db import tenant_rows
from common.db.database import Sessions
from common.errors import Conflict, NotYet, ProviderRejected, RateLimited, Undecided, Upstream
from common.messaging import outbox
from common.messaging.events import new_event
from common.messaging.outbox import UnitOfWork
from common.observability.logging import get_logger
from common.observability.redaction import Redactor
from subscription import metrics, repository
from subscription.domain import SOURCE
from subscription.models import COMMAND_IN_METADATA, Command
from subscription.providers.registry import Accounts
from subscription.schemas import billing
from subscription.schemas.billing import (
    UNFINISHED,
    Attempt,
    CommandRequest,
    CommandStatus,
    NewSetupIntent,
)

log = get_logger(__name__)

_NOTHING_DONE = "nothing was done, and nothing will be unless the request is sent again"
_ANOTHER_AT_IT = "another command about the same is under way"
_TURN_SECONDS = 0.1
_AGAIN_SECONDS = 5
_LEFT_ALONE = timedelta(seconds=60)
# An accepted command that cannot be executed for this long is given up.
_LONGEST = timedelta(hours=24)
# Stripe's times are in whole seconds, and of its own clock.
_CLOCKS_DIFFER = timedelta(seconds=3)
_MOST = 500


class _Turn(Enum):
    NOW = auto()
    LATER = auto()
    NEVER = auto()


class BillingCommands:
    """Service that executes billing commands. `timeout` is the limit for a response from Stripe,
    `quiet` how much longer Stripe may still be processing a call that got no response; both in
    seconds."""

    def __init__(
        self,
        sessions: Sessions,
        accounts: Accounts,
        *,
        timeout: float,
        quiet: float,
        redact: Redactor,
    ) -> None:
        self._quiet = timedelta(seconds=quiet)
        self._sessions = sessions
        self._accounts = accounts
        self._timeout = timeout
        self._redact = redact

    async def execute(
        self, tenant: str, account: str, key: str, subject: str, request: CommandRequest
    ) -> Command:
        """Execute the command and return it: `done`, or `accepted` if its outcome is unknown and it
        will be executed once.

        Raise `Conflict` if the key was used for another command, `Invalid` for an account that does
        not exist, `ProviderRejected` if Stripe rejects it, `NotYet` if it was not done and never
        will be unless the same request is sent again, and `Undecided` if its outcome could not be
        stored.
        """
        self._accounts.billing(tenant, account)
        intended = CommandIntent(tenant, "stripe", account, key, subject, request)
        async with self._sessions.begin() as session:
            row = await record_intent(session, intended)
            if row.status == CommandStatus.WITHDRAWN:
                row.status, row.error = CommandStatus.OPEN, None
        row = await self._do(row.id)
        if row.status == CommandStatus.REFUSED:
            raise ProviderRejected(row.error or "refused", 0)
        if row.status == CommandStatus.WITHDRAWN:
            raise NotYet(f"{row.error}; {_NOTHING_DONE}", _AGAIN_SECONDS)
        return row

    async def resume_event(self, event: Event[ResumeBillingCommand]) -> None:
        """Resume a command that was accepted, or whose process died. If it cannot be executed now,
        the job enqueues it again."""
        id_ = event.data.command_id
        async with self._sessions() as session:
            row = await session.get_one(Command, id_)
            now = await tenant_rows.database_now(session)
        if row.status not in UNFINISHED:
            return
        if row.accepted_at is not None and row.accepted_at > now - _LONGEST:
            row = await self._do(id_)
        elif row.begun:
            row = await self._resolve(row, seen=row.begun)
        else:
            row = await self._put_off(id_, "its process died before it was sent", seen=0)
        if row.status not in {CommandStatus.DONE, CommandStatus.ACCEPTED}:
            log.warning("billing_command_not_done", command=id_, status=row.status, error=row.error)

    async def _do(self, id_: str) -> Command:
        """Execute the command unless it is finished; return its row afterwards."""
        async with self._sessions() as session:
            row = await session.get_one(Command, id_)
        request = billing.stored(row.request)
        # The secret that the browser needs is not stored: Stripe returns it again for the same key.
        shown_again = row.status == CommandStatus.DONE and isinstance(request, NewSetupIntent)
        if row.status not in UNFINISHED and not shown_again:
            return row
        client = self._accounts.billing(row.tenant, row.account)
        attempt = Attempt(row.id, row.subject, request, row.attempts)
        turn, began = _Turn.LATER, False
        deadline = time.monotonic() + self._timeout
        try:
            while turn is _Turn.LATER:
                async with client.gate.admit():
                    turn = await self._begin(id_)
                    if began := turn is _Turn.NOW:
                        async with asyncio.timeout(self._timeout), client.gate.call():
                            result = await client.api.do(attempt)
                if turn is _Turn.LATER:
                    if time.monotonic() > deadline:
                        return await self._put_off(id_, _ANOTHER_AT_IT)
                    await asyncio.sleep(_TURN_SECONDS)
        except (RateLimited, Upstream, TimeoutError) as error:
            with _written_down(began=began):
                return await self._not_done(row, attempt, error, began=began)
        if turn is _Turn.NEVER:
            async with self._sessions() as session:
                return await session.get_one(Command, id_)
        secret = result.pop("client_secret", None)
        with _written_down(began=began):
            row = await self._finish(id_, CommandStatus.DONE, result, None)
        if secret is not None:
            row.result = {**(row.result or {}), "client_secret": secret}
        return row

    async def _not_done(
        self, row: Command, attempt: Attempt, error: Exception, *, began: bool
    ) -> Command:
        if isinstance(error, ProviderRejected):
            return await self._finish(row.id, CommandStatus.REFUSED, None, self._masked(error))
        if isinstance(error, RateLimited):  # Stripe did not accept the call
            metrics.commands.labels(row.kind, "put_off").inc()
            return await self._put_off(row.id, f"stripe: {error}", began=began)
        metrics.commands.labels(row.kind, "unknown").inc()
        if isinstance(error, IdempotencyKeyConsumed):
            await self._next_key(attempt)
            if error.partly:
                return await self._accept(row.id, self._masked(error))
            return await self._resolve(row, self._masked(error))
        if isinstance(error, TimeoutError):
            return await self._accept(row.id, f"stripe did not respond within {self._timeout:g} s")
        return await self._accept(row.id, self._masked(error))

    async def _resolve(
        self, row: Command, error: str | None = None, *, seen: int | None = None
    ) -> Command:
        """Query Stripe for the command's outcome after its call has ended with an unknown one.
        `seen` is as for `_put_off`."""
        client = self._accounts.billing(row.tenant, row.account)
        attempt = Attempt(row.id, row.subject, billing.stored(row.request), row.attempts)
        try:
            async with client.gate.admit(), asyncio.timeout(self._timeout), client.gate.call():
                found = await client.api.find(attempt)
        except ProviderRejected as refused:
            return await self._finish(row.id, CommandStatus.REFUSED, None, self._masked(refused))
        except (RateLimited, Upstream, TimeoutError) as unknown:
            return await self._accept(row.id, error or self._masked(unknown))
        if found is not None:
            return await self._finish(row.id, CommandStatus.DONE, found, None)
        error = error or "stripe was queried, and has not executed it"
        return await self._put_off(row.id, error, began=seen is None, seen=seen)

    async def _begin(self, id_: str) -> _Turn:
        """Record that a call begins, so that a worker that gives the command up knows about it.

        For each subject, the last command executed takes precedence. A command is therefore
        executed only while no other one is under way, and not after a later one.
        """
        async with self._locked(id_, alone=True) as row:
            if row.status == CommandStatus.WITHDRAWN:
                raise NotYet("another request with the same key withdrew it", _AGAIN_SECONDS)
            if row.status == CommandStatus.REFUSED:
                return _Turn.NEVER
            if row.status in UNFINISHED:
                turn = await self._turn(row)
                if turn is _Turn.NEVER and row.confirmed_at is not None:
                    row.status, row.error = CommandStatus.DONE, None
                elif turn is _Turn.NEVER:
                    row.status, row.error = CommandStatus.REFUSED, _SUPERSEDED
                if turn is not _Turn.NOW:
                    return turn
            row.begun += 1
        return _Turn.NOW

    async def _turn(self, row: Command) -> _Turn:
        session = async_object_session(row)
        assert session is not None
        kinds = next((each for each in billing.SUPERSEDING if row.kind in each), ())
        bounded = timedelta(seconds=self._timeout) + _CLOCKS_DIFFER
        others = await repository.other_commands(
            session, row, kinds, at_most=bounded, quiet=self._quiet
        )
        turn = _Turn.NOW
        for status, created_at, is_under_way in others:
            later = created_at > row.created_at
            if later and status == CommandStatus.DONE:
                return _Turn.NEVER
            if is_under_way or (later and status == CommandStatus.ACCEPTED):
                turn = _Turn.LATER
        return turn

    async def _put_off(
        self, id_: str, error: str, *, began: bool = False, seen: int | None = None
    ) -> Command:
        """Record that the command was not done. It is withdrawn: its caller learns that it never
        will be done, unless it is sent again. A command whose caller already learned that it will
        be done, or that another request with the same key is executing, is or becomes accepted
        instead.

        `seen` is set when a command is given up: the number of calls that had begun when that was
        decided, all of which are over. An accepted command is then withdrawn too.
        """
        async with self._locked(id_) as row:
            row.ended += began
            alone = row.begun == (row.ended if seen is None else seen)
            if row.status in UNFINISHED and seen is not None and alone:
                row.status = CommandStatus.WITHDRAWN
                metrics.commands.labels(row.kind, CommandStatus.WITHDRAWN).inc()
            elif row.status == CommandStatus.OPEN and seen is None:
                row.status = CommandStatus.WITHDRAWN if alone else CommandStatus.ACCEPTED
                row.accepted_at = None if alone else func.clock_timestamp()
                metrics.commands.labels(row.kind, row.status).inc()
            row.error = error
        return row

    async def _accept(self, id_: str, error: str) -> Command:
        """Record that the outcome is unknown: the command will be executed once."""
        async with self._locked(id_) as row:
            row.ended += 1
            row.unanswered_at = func.clock_timestamp()
            if row.status in {CommandStatus.OPEN, CommandStatus.WITHDRAWN}:
                row.status, row.accepted_at = CommandStatus.ACCEPTED, func.clock_timestamp()
                metrics.commands.labels(row.kind, CommandStatus.ACCEPTED).inc()
            row.error = error
        return row

    async def _finish(
        self, id_: str, status: CommandStatus, result: dict[str, Any] | None, error: str | None
    ) -> Command:
        async with self._locked(id_) as row:
            row.ended += 1
            known = row.status in {CommandStatus.DONE, status}
            # A command that was executed is done, even if another request had given it up.
            if not known and (row.status in UNFINISHED or status == CommandStatus.DONE):
                row.status, row.result, row.error = status, result, error
                metrics.commands.labels(row.kind, status).inc()
        return row

    async def _next_key(self, attempt: Attempt) -> None:
        async with self._locked(attempt.id) as row:
            row.attempts = max(row.attempts, attempt.number + 1)

    @asynccontextmanager
    async def _locked(self, id_: str, *, alone: bool = False) -> AsyncIterator[Command]:
        """Yield the row, locked in a transaction of its own; it stays readable afterwards. `alone`
        is whether no other worker may decide about commands on the same subject meanwhile."""
        async with self._sessions.begin() as session:
            if alone:
                await repository.lock_subject_of(session, id_)
            row = await repository.locked_command(session, id_)
            yield row
            await session.flush()
            await session.refresh(row)
            session.expunge(row)

    def _masked(self, error: Exception) -> str:
        return excerpt(f"stripe {error}", self._redact)


@contextmanager
def _written_down(*, began: bool) -> Iterator[None]:
    """Raise `Undecided` if the database fails after a call that Stripe may have executed: the
    caller must not be informed that the command is not done."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        if not began:
            raise
        raise Undecided(
            "its outcome could not be stored: repeat the request with the same Idempotency-Key"
        ) from error


@dataclass(frozen=True)
class CommandIntent:
    """A caller's command, identified by the caller's key."""

    tenant: str
    provider: str
    account: str
    key: str
    subject: str
    request: CommandRequest


async def record_intent(session: AsyncSession, intended: CommandIntent) -> Command:
    """Insert the command unless it exists; return its row, locked. Raise `Conflict` if the key was
    used for another command."""
    values = {
        "id": derived_id(Command.__tablename__, intended.tenant, intended.key),
        "tenant": intended.tenant,
        "provider": intended.provider,
        "account": intended.account,
        "idempotency_key": intended.key,
        "kind": intended.request.kind,
        "subject": intended.subject,
        "request": intended.request.model_dump(mode="json"),
        "status": CommandStatus.OPEN.value,
    }
    row = await repository.intend_command(session, values)
    same = ("subject", "account", "provider", "request")
    if any(getattr(row, name) != values[name] for name in same):
        raise Conflict("this Idempotency-Key was used for another command")
    return row


_SUPERSEDED = "a later command superseded it"


async def lock(session: AsyncSession, events: Sequence[Event[Any]]) -> None:
    """Lock the commands that the events may confirm, for `confirm`."""
    reports = [each.data for each in events if isinstance(each.data, ProviderSubscription)]
    named = {name for each in reports if (name := each.metadata.get(COMMAND_IN_METADATA))}
    waiting: Sequence[Command] = ()
    if reports:
        waiting = await repository.unconfirmed_commands(
            session,
            {each.tenant for each in events},
            subjects={each.subscription_id for each in reports},
            ids=named,
        )
    session.info["commands"] = waiting


def confirm(session: AsyncSession, event: Event[ProviderSubscription]) -> None:
    """Mark the commands that this report shows to be done. An open command stays open: the worker
    that resumes it checks with the provider."""
    report = event.data
    named = report.metadata.get(COMMAND_IN_METADATA)
    waiting: Sequence[Command] = session.info["commands"]
    for row in waiting:
        if row.tenant != event.tenant or row.confirmed_at is not None:
            continue
        if named != row.id and event.time < row.created_at - _CLOCKS_DIFFER:
            continue  # an earlier state proves nothing about the command
        if named != row.id and row.subject != report.subscription_id:
            continue
        shows = row.id == named or billing.confirmed(
            billing.stored(row.request),
            status=report.status,
            plan=report.plan.plan_id if report.plan and not report.more_plans else None,
            ends=report.cancel_at_period_end or report.cancel_at is not None,
        )
        if shows:
            row.confirmed_at = event.time
            metrics.commands.labels(row.kind, "confirmed").inc()


async def run_job(work: UnitOfWork, event: Event[RunJob]) -> str:
    """Run the job: enqueue the commands that were left unfinished for a minute."""
    found = await repository.claim_unfinished_commands(work.session, _LEFT_ALONE, _MOST)
    await outbox.enqueue(
        work.session,
        [
            new_event(
                id=derived_id("command due", id_, event.id),
                type="billing_command.resume",
                source=SOURCE,
                subject=id_,
                tenant=tenant,
                data=ResumeBillingCommand(command_id=id_),
            )
            for id_, tenant in found
        ],
    )
    return f"{len(found)} commands taken up"

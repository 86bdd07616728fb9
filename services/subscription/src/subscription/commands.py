"""Commands about subscriptions and customers at Stripe: written down, done, confirmed by a webhook.

What the subscription is stays what webhooks say, so it does not matter which comes first, the
command's answer or its webhook. A command whose process died is taken up by the job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from common.arrays import is_one_of
from common.contracts.event import Event, derived_id, root
from common.contracts.jobs import JobDue
from common.contracts.subscriptions import CommandDue, ProviderSubscription
from common.database import Sessions
from common.errors import Conflict, Invalid, RateLimited, Upstream
from common.logs import get_logger
from common.messaging import outbox
from common.messaging.outbox import Work
from common.outside import Refused, excerpt
from common.redaction import Redactor
from common.stripe_sdk import KeyUsedUp
from subscription import billing, metrics
from subscription.accounts import Accounts
from subscription.billing import Attempt, CommandStatus, NewSetupIntent, Wanted
from subscription.models import COMMAND_IN_METADATA, Command

log = get_logger(__name__)

_AGAIN = "send the same request with the same Idempotency-Key again"
_LEFT_ALONE = timedelta(seconds=60)
# Stripe's time is in whole seconds, and its own.
_CLOCKS_DIFFER = timedelta(seconds=3)
_MOST = 500


class Commands:
    """`timeout` (seconds) is how long Stripe may take to answer."""

    def __init__(
        self, sessions: Sessions, accounts: Accounts, *, timeout: float, redact: Redactor
    ) -> None:
        self._sessions = sessions
        self._accounts = accounts
        self._timeout = timeout
        self._redact = redact

    async def run(
        self, tenant: str, account: str, key: str, subject: str, wanted: Wanted
    ) -> Command:
        """Raises `Conflict` when the key was used for another command, `Invalid` for an account
        that there is not, `Refused`; and `Upstream` or `RateLimited` when it may be sent again."""
        self._accounts.billing(tenant, account)
        intended = Intended(tenant, "stripe", account, key, subject, wanted)
        async with self._sessions.begin() as session:
            row = await intend(session, intended)
            for kinds in billing.SUPERSEDING:
                if row.kind in kinds:
                    await _supersede(session, row, kinds)
        return await self.go_on(row.id)

    async def go_on(self, id_: str) -> Command:
        """Do it, unless it is done. Raises what `run` raises."""
        async with self._sessions() as session:
            row = await session.get_one(Command, id_)
        if row.status == CommandStatus.REFUSED:
            raise Refused(row.error or "refused", 0)
        wanted = billing.stored(row.request)
        # What a browser needs of it is a secret, and not kept: Stripe answers the same key again.
        if row.status == CommandStatus.DONE and not isinstance(wanted, NewSetupIntent):
            return row
        client = self._accounts.billing(row.tenant, row.account)
        attempt = Attempt(row.id, row.subject, wanted, row.attempts)
        try:
            async with (
                client.gate.place(), asyncio.timeout(self._timeout), client.gate.call()
            ):  # fmt: skip
                result = await client.api.do(attempt)
        except Refused as error:
            await self._keep(id_, CommandStatus.REFUSED, None, self._said(error))
            raise Refused(self._said(error), error.status) from error
        except RateLimited as error:
            metrics.commands.labels(row.kind, "put_off").inc()
            raise RateLimited(f"stripe: {error}; {_AGAIN}", error.retry_after) from error
        except Upstream as error:
            metrics.commands.labels(row.kind, "unknown").inc()
            if isinstance(error, KeyUsedUp):
                await self._next_key(attempt)
            raise Upstream(f"{self._said(error)}; {_AGAIN}") from error
        except TimeoutError as error:
            metrics.commands.labels(row.kind, "unknown").inc()
            raise Upstream(f"stripe gave no answer in {self._timeout:g} s; {_AGAIN}") from error
        secret = result.pop("client_secret", None)
        row = await self._keep(id_, CommandStatus.DONE, result, None)
        if secret is not None:
            row.result = {**(row.result or {}), "client_secret": secret}
        return row

    async def take_up(self, event: Event[CommandDue]) -> None:
        """Of a process that died. What can't be done now is tried again by the retry ladder."""
        try:
            await self.go_on(event.data.command_id)
        except (Refused, Invalid) as error:
            log.warning("a command is refused", command=event.data.command_id, error=str(error))

    def _said(self, error: Exception) -> str:
        return excerpt(self._redact(f"stripe {error}"))

    async def _keep(
        self, id_: str, status: CommandStatus, result: dict[str, Any] | None, error: str | None
    ) -> Command:
        async with self._sessions.begin() as session:
            row = await session.get_one(Command, id_, with_for_update=True)
            if row.status == CommandStatus.OPEN:
                row.status, row.result, row.error = status, result, error
                metrics.commands.labels(row.kind, status).inc()
            await session.flush()
            await session.refresh(row)
            session.expunge(row)
        return row

    async def _next_key(self, attempt: Attempt) -> None:
        async with self._sessions.begin() as session:
            row = await session.get_one(Command, attempt.id, with_for_update=True)
            row.attempts = max(row.attempts, attempt.number + 1)


@dataclass(frozen=True)
class Intended:
    """A command of a caller's, by the caller's key."""

    tenant: str
    provider: str
    account: str
    key: str
    subject: str
    wanted: Wanted


async def intend(session: AsyncSession, intended: Intended) -> Command:
    """Write the command down, unless it is there; the row is locked. Raises `Conflict` when the
    key was used for another one."""
    values = {
        "id": derived_id(Command.__tablename__, intended.tenant, intended.key),
        "tenant": intended.tenant,
        "provider": intended.provider,
        "account": intended.account,
        "idempotency_key": intended.key,
        "kind": intended.wanted.kind,
        "subject": intended.subject,
        "request": intended.wanted.model_dump(mode="json"),
        "status": CommandStatus.OPEN.value,
    }
    await session.execute(insert(Command).values(values).on_conflict_do_nothing())
    row = await session.get_one(Command, values["id"], with_for_update=True)
    same = ("subject", "account", "provider", "request")
    if any(getattr(row, name) != values[name] for name in same):
        raise Conflict("this Idempotency-Key was used for another command")
    return row


async def _supersede(session: AsyncSession, row: Command, kinds: Sequence[str]) -> None:
    """What was wanted of the same subject before, and is not done, is not done any more."""
    await session.execute(
        update(Command)
        .where(
            Command.tenant == row.tenant,
            Command.subject == row.subject,
            Command.kind.in_(kinds),
            Command.status == CommandStatus.OPEN,
            Command.created_at < row.created_at,
        )
        .values(status=CommandStatus.REFUSED, error="a later command took its place")
    )


async def lock(session: AsyncSession, events: Sequence[Event[Any]]) -> None:
    """Lock the commands that the events may confirm, for `confirm`."""
    reports = [each.data for each in events if isinstance(each.data, ProviderSubscription)]
    named = {name for each in reports if (name := each.metadata.get(COMMAND_IN_METADATA))}
    waiting: Sequence[Command] = ()
    if reports:
        query = select(Command).where(
            is_one_of(Command.tenant, sorted({each.tenant for each in events})),
            or_(
                is_one_of(Command.subject, sorted({each.subscription_id for each in reports})),
                is_one_of(Command.id, sorted(named)),
            ),
            Command.kind.in_(billing.CONFIRMED),
            Command.confirmed_at.is_(None),
            Command.status != CommandStatus.REFUSED,
        )
        waiting = (await session.scalars(query.order_by(Command.id).with_for_update())).all()
    session.info["commands"] = waiting


def confirm(session: AsyncSession, event: Event[ProviderSubscription]) -> None:
    """The commands that this report shows to be done. One that is open stays so: whoever takes it
    up looks at the provider for itself."""
    report = event.data
    named = report.metadata.get(COMMAND_IN_METADATA)
    waiting: Sequence[Command] = session.info["commands"]
    for row in waiting:
        if row.tenant != event.tenant or row.confirmed_at is not None:
            continue
        if named != row.id and event.time < row.created_at - _CLOCKS_DIFFER:
            continue  # what was so before says nothing of the command
        if named != row.id and row.subject != report.subscription_id:
            continue
        shows = row.id == named or billing.confirmed(
            billing.stored(row.request),
            status=report.status,
            plan=report.plan.plan_id if report.plan else None,
            cancel_at_period_end=report.cancel_at_period_end,
        )
        if shows:
            row.confirmed_at = event.time
            metrics.commands.labels(row.kind, "confirmed").inc()


async def run_job(work: Work, event: Event[JobDue]) -> str:
    """The job: what nobody has finished for a minute is taken up."""
    due = (
        update(Command)
        .where(
            Command.id.in_(
                select(Command.id)
                .where(
                    Command.status == CommandStatus.OPEN,
                    Command.updated_at < func.now() - _LEFT_ALONE,
                )
                .limit(_MOST)
                .with_for_update(skip_locked=True)
            )
        )
        .values(updated_at=func.now())
        .returning(Command.id, Command.tenant)
    )
    found: Sequence[Any] = (await work.session.execute(due)).all()
    await outbox.write(
        work.session,
        [
            root(
                id=derived_id("command due", row.id, event.id),
                type="subscription_command.due",
                source="/subscription",
                subject=row.id,
                tenant=row.tenant,
                data=CommandDue(command_id=row.id),
            )
            for row in found
        ],
    )
    return f"{len(found)} commands taken up"

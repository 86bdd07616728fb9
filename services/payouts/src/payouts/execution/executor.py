"""Send each payout once: the intent with its idempotency key is committed before the provider is
called, no transaction is open during the call, and a payout that was ever sent is checked at the
provider before it is sent again.

Safe to run for the same payout in several processes at the same time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event
from common.contracts.payouts import ProcessPayout
from common.db import tenant_rows
from common.db.database import Sessions
from common.db.group_commit import GroupCommit
from common.errors import Invalid, PaybusError, Permanent, ProviderTimeout, RateLimited, Upstream
from payouts import metrics, repository
from payouts.domain import ProviderTransfer
from payouts.execution.planner import (
    FRESH,
    CheckStatus,
    Defer,
    PayoutPlanner,
    PayoutSent,
    PlannerAction,
    PlannerConfig,
    PlannerInput,
    SendPayout,
    Start,
    StatusChecked,
    elapsed,
    outcome_of,
    too_late,
)
from payouts.execution.status_updates import PayoutHistory
from payouts.ledger.unit_of_work import PayoutUnitOfWork
from payouts.providers.registry import Accounts, ProviderAccount
from payouts.repository import TransferKey


class PayoutExecutor:
    def __init__(self, sessions: Sessions, accounts: Accounts, rules: PlannerConfig) -> None:
        self._accounts = accounts
        self._rules = rules
        self._commits: GroupCommit[tuple[PlannerInput, ProviderAccount], PlannerAction] = (
            GroupCommit(sessions, self.run)
        )

    async def start(self) -> None:
        await self._commits.start()

    async def stop(self) -> None:
        await self._commits.stop()

    async def process(self, event: Event[ProcessPayout]) -> None:
        """Do what the payout's state requires. Provider errors are stored with the payout, which a
        scheduled job enqueues again. Raises `Upstream` if the account is not configured, or if a
        requested status check was not made or failed and no job would repeat it."""
        due = event.data
        try:
            account = self._accounts.find(event.tenant, due.provider, due.account)
        except Invalid as error:
            raise Upstream(f"payout {due.payout_id} waits: {error}") from error
        try:
            async with account.gate.admit():
                next_ = await self._do(account, Start(due.payout_id, due.ask))
                if isinstance(next_, CheckStatus):
                    found = await self._find(account, next_)
                    looked = StatusChecked(due.payout_id, next_.version, found)
                    next_ = await self._do(account, looked)
                if isinstance(next_, SendPayout):
                    answer = await self._send(account, next_)
                    await self._do(account, PayoutSent(due.payout_id, next_.number, answer))
        except RateLimited as error:  # from the gate: nothing was started
            await self._do(account, Defer(due.payout_id, error.retry_after, str(error)))
            if due.ask:  # no job would repeat the status check
                raise Upstream(f"payout {due.payout_id} needs a status check: {error}") from error

    async def _do(self, account: ProviderAccount, item: PlannerInput) -> PlannerAction:
        return await self._commits.do((item, account))

    async def _find(
        self, account: ProviderAccount, look: CheckStatus
    ) -> Sequence[ProviderTransfer] | Exception:
        call = account.client.find(look.order, look.since)
        answer: Sequence[ProviderTransfer] | Exception = await self._call(account, "look", call)
        if not isinstance(answer, Exception):
            outcome = "found" if answer else "not_found"
            metrics.calls.labels(account.provider, "look", outcome).inc()
        return answer

    async def _send(
        self, account: ProviderAccount, send: SendPayout
    ) -> ProviderTransfer | Exception:
        if elapsed() > send.before:
            return too_late()
        call = account.client.send(send.order, send.key)
        answer: ProviderTransfer | Exception = await self._call(account, "send", call)
        outcome = "accepted"
        if isinstance(answer, Exception):
            outcome = outcome_of(answer)
        metrics.calls.labels(account.provider, "send", outcome).inc()
        return answer

    async def _call(self, account: ProviderAccount, operation: str, call: Any) -> Any:
        """Return the response, or the error that the call raised."""
        started = time.perf_counter()
        try:
            async with account.gate.call():
                return await self._bounded(call)
        except (RateLimited, Upstream) as error:
            return error
        finally:
            call.close()
            seconds = time.perf_counter() - started
            metrics.call_seconds.labels(account.provider, operation).observe(seconds)

    async def _bounded(self, call: Any) -> Any:
        try:
            async with asyncio.timeout(seconds := self._rules.timeout.total_seconds()):
                return await call
        except TimeoutError as error:
            raise ProviderTimeout(f"did not respond within {seconds:g} s") from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            # The provider may have processed the request.
            raise ProviderTimeout(
                f"returned an unexpected response ({type(error).__name__})"
            ) from error

    async def run(
        self, session: AsyncSession, items: Sequence[tuple[PlannerInput, ProviderAccount]]
    ) -> Sequence[PlannerAction | PaybusError]:
        """Run a batch in one transaction, with the rows that its items need locked in the common
        order."""
        transfers = await repository.lock_transfers(session, _transfers_of(items))
        ids = [item.payout_id for item, _ in items]
        found = await repository.lock_payouts(session, ids)
        controls = await repository.lock_controls(session, [row.tenant for row in found.values()])
        attempts = await repository.attempts_of(session, list(found))
        made = await repository.transfers_of(session, list(found))
        unreconciled = await repository.unreconciled(session)
        recipients = await repository.recipients(
            session, [row.recipient_id for row in found.values()]
        )
        before = elapsed() + FRESH.total_seconds()
        books = PayoutUnitOfWork(session, await tenant_rows.database_now(session))
        planner = PayoutPlanner(self._rules, books, controls, unreconciled, before)
        results: list[PlannerAction | PaybusError] = []
        files = {id_: PayoutHistory(row, attempts[id_], made[id_]) for id_, row in found.items()}
        for item, account in items:
            file = files.get(item.payout_id)
            if file is None:
                results.append(Permanent(f"there is no payout {item.payout_id}"))
                continue
            planner.account = account
            planner.recipient = recipients[file.row.recipient_id]
            match item:
                case Start():
                    results.append(planner.start(file, ask=item.ask))
                case StatusChecked():
                    results.append(planner.on_status_checked(file, item, transfers))
                case PayoutSent():
                    planner.on_sent(file, item, transfers)
                    results.append(None)
                case Defer():
                    planner.defer(file, item)
                    results.append(None)
        await books.flush()
        return results


def _transfers_of(items: Sequence[tuple[PlannerInput, ProviderAccount]]) -> list[TransferKey]:
    keys: list[TransferKey] = []
    for item, account in items:
        found: Sequence[ProviderTransfer] = ()
        if isinstance(item, PayoutSent) and isinstance(item.answer, ProviderTransfer):
            found = [item.answer]
        elif isinstance(item, StatusChecked) and not isinstance(item.found, Exception):
            found = item.found
        keys += [account.transfer_key(each.transfer_id) for each in found]
    return keys

"""One transaction's changes to payouts: states, ledger, balances, audit log and events, together.

Rows are locked in one order: tenants, recipients, transfers, payouts, discrepancies, balances,
audit head. `PayoutExecutor.run` locks tenants, shared, after payouts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from common.contracts.event import Event, derived_id
from common.contracts.payouts import PayoutChanged, ProcessPayout
from common.messaging import outbox
from common.messaging.events import follow_up_event, new_event
from payouts import metrics
from payouts.domain import State
from payouts.ledger import audit_log, discrepancies, entries, repository
from payouts.ledger.audit_log import PAYBUS, Action, Actor, Posting
from payouts.ledger.entries import Entry, LedgerAccount, PayoutAmount
from payouts.models import Discrepancy, Payout

SOURCE = "/payouts"

_PUBLISHED = {State.SUBMITTED, State.PAID, State.FAILED, State.RETURNED, State.CANCELLED}


class PayoutUnitOfWork:
    """Collector of the changes made in the session's transaction; `flush`, its last step, writes
    them.

    `now` is the database's time (UTC).
    """

    def __init__(self, session: AsyncSession, now: datetime) -> None:
        self.session = session
        self.now = now
        self._actions: list[Action] = []
        self._events: list[Event[Any]] = []
        self._differences: dict[str, Discrepancy] = {}
        self._moves: Counter[tuple[str, str]] = Counter()

    def create(self, row: Payout, actor: Actor, *, reason: str | None = None) -> None:
        """Record a new payout."""
        posted = self._posted(row, entries.opening(sum_of(row)))
        self._note(row, actor, "create", None, reason, posted)
        self._moves[row.provider, row.state] += 1

    def transition(
        self,
        row: Payout,
        to: State,
        *,
        action: str,
        actor: Actor = PAYBUS,
        reason: str | None = None,
        cause: Event[Any] | None = None,
        publish: bool = True,
    ) -> None:
        """Change the (locked) payout's state. `publish` is whether the change is published."""
        before = State(row.state)
        sum_ = sum_of(row)
        posted = self._posted(row, entries.of_transition(before, to, sum_))
        if to in {State.PAID, State.RETURNED}:
            row.fee_charged = True
        row.state = to
        row.amount_returned = 0
        row.version += 1
        self._note(row, actor, action, before, reason, posted)
        self._moves[row.provider, to] += 1
        if publish and to in _PUBLISHED:
            self._publish(row, to, cause)

    def correct(self, row: Payout, amount: int) -> None:
        """Correct the amount of a payout to that of the transfer that the provider made before the
        database was restored."""
        if amount == row.amount:
            return
        before = row.amount
        posted = self._posted(row, entries.correction(State(row.state), sum_of(row), amount))
        row.amount = amount
        row.version += 1
        reason = f"the provider paid {amount} {row.currency}, not {before}"
        self._note(row, PAYBUS, "correct", State(row.state), reason, posted)

    def return_part(self, row: Payout, returned: int, actor: Actor) -> None:
        """Record that `returned` of a paid payout came back, in total (minor units): it is owed
        again."""
        returning = entries.part_returned(sum_of(row), returned)
        row.amount_returned = returned
        reason = f"{returned} of {row.amount} {row.currency} were returned in total"
        self.annotate(row, actor, "return a part", reason, returning)

    def pay_by_other(self, row: Payout, transfer_id: str, actor: Actor, action: str) -> None:
        """Record that a paid payout is paid by a transfer other than the recorded one."""
        returning = entries.part_paid_again(sum_of(row))
        row.transfer_id, row.amount_returned = transfer_id, 0
        self.annotate(row, actor, action, f"it is paid by {transfer_id}", returning)

    def annotate(
        self,
        row: Payout,
        actor: Actor,
        action: str,
        reason: str | None,
        entries: Sequence[Entry] = (),
    ) -> None:
        """Record an action that leaves the state unchanged."""
        row.version += 1
        self._note(row, actor, action, State(row.state), reason, self._posted(row, entries))

    def audit(self, action: Action) -> None:
        """Record an action on an object other than a payout."""
        self._actions.append(action)

    def enqueue(self, row: Payout, priority: str | None = None, *, ask: bool = False) -> None:
        """Enqueue the payout for a worker when the transaction commits; with `ask`, its status is
        checked at the provider whatever its state."""
        id_ = derived_id("payout_due", row.id, str(row.version), str(ask), self.now.isoformat())
        self._events.append(
            new_event(
                id=id_,
                type=f"payout.process.{priority or row.priority}",
                source=SOURCE,
                subject=row.id,
                tenant=row.tenant,
                correlationid=row.id,
                data=ProcessPayout(
                    payout_id=row.id, provider=row.provider, account=row.account, ask=ask
                ),
            )
        )

    def add_discrepancy(self, discrepancy: Discrepancy) -> None:
        """Store the discrepancy, once."""
        self._differences[discrepancy.id] = discrepancy

    async def flush(self) -> None:
        await self.session.flush()
        await discrepancies.keep(self.session, self._differences.values())
        if self._actions:
            await self._post()
            await self._append()
        await outbox.enqueue(self.session, self._events)
        for (provider, state), count in self._moves.items():
            metrics.moves.labels(provider, state).inc(count)
        self._actions, self._events, self._differences = [], [], {}
        self._moves.clear()

    def _posted(self, row: Payout, entries: Sequence[Entry]) -> list[Posting]:
        return [Posting(row.recipient_id, row.currency, each, row.id) for each in entries]

    def _note(
        self,
        row: Payout,
        actor: Actor,
        action: str,
        before: State | None,
        reason: str | None,
        posted: Sequence[Posting],
    ) -> None:
        self._actions.append(
            Action(
                at=self.now,
                tenant=row.tenant,
                actor=actor,
                action=action,
                subject=f"payout/{row.id}",
                before=before,
                after=row.state,
                reason=reason,
                posted=posted,
            )
        )

    def _publish(self, row: Payout, state: State, cause: Event[Any] | None) -> None:
        changed = PayoutChanged(
            payout_id=row.id,
            recipient_id=row.recipient_id,
            recipient=row.recipient,
            provider=row.provider,
            account=row.account,
            amount=row.amount,
            fee=row.fee,
            currency=row.currency,
            transfer_id=row.transfer_id,
            batch_id=row.batch_id,
            error=row.error if state is State.FAILED else None,
        )
        if cause is not None:
            event = follow_up_event(
                cause,
                type=f"payout.{state}",
                source=SOURCE,
                subject=row.id,
                data=changed,
                sequence=row.version,
                tenant=row.tenant,
            )
        else:
            event = new_event(
                id=derived_id("payout", row.id, str(row.version)),
                type=f"payout.{state}",
                source=SOURCE,
                subject=row.id,
                data=changed,
                sequence=row.version,
                tenant=row.tenant,
                correlationid=row.id,
            )
        self._events.append(event)

    async def _post(self) -> None:
        sums: dict[tuple[str, str], Counter[str]] = {}
        tenants: dict[tuple[str, str], str] = {}
        for action in self._actions:
            for posted in action.posted:
                key = (posted.recipient_id, posted.currency)
                tenants[key] = action.tenant
                counter = sums.setdefault(key, Counter())
                counter[posted.entry.source] -= posted.entry.amount
                counter[posted.entry.target] += posted.entry.amount
        if not sums:
            return
        keys = sorted(sums)  # sorted, so that concurrent workers never deadlock
        columns: dict[str, list[Any]] = {
            "recipient_id": [recipient for recipient, _ in keys],
            "currency": [currency for _, currency in keys],
            "tenant": [tenants[key] for key in keys],
        }
        columns |= {str(account): [sums[key][account] for key in keys] for account in LedgerAccount}
        await repository.add_to_balances(self.session, columns)

    async def _append(self) -> None:
        """Append to the log, as the last step: until the commit every other writer to the log
        waits."""
        head = await repository.lock_head(self.session)
        found = list(audit_log.chain(head, self._actions))
        entries = [
            {
                "tenant": action.tenant,
                "recipient_id": posted.recipient_id,
                "payout_id": posted.payout_id,
                "currency": posted.currency,
                "source": str(posted.entry.source),
                "target": str(posted.entry.target),
                "amount": posted.entry.amount,
                "audit_position": row["position"],
                "at": action.at,
            }
            for action, row in zip(self._actions, found, strict=True)
            for posted in action.posted
        ]
        await repository.append(self.session, found, entries)


def sum_of(row: Payout) -> PayoutAmount:
    fee = 0 if row.fee_charged else row.fee
    # Money that was paid or returned once is the recipient's: it stays owed after a cancellation.
    funding = "balance" if row.fee_charged else row.funding
    return PayoutAmount(row.amount, fee, funding, row.amount_returned)  # type: ignore[arg-type]

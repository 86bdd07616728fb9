"""`make mutation-test`: takes out the code that keeps each promise and sees its test fail.

Each mutant is a copy of the sources with one text replaced, put in front of the real ones.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MESSAGING = "libs/common/src/common/messaging"
GATEWAY = "services/webhook-gateway/src/webhook_gateway"
PAYOUTS = "services/payouts/src/payouts"
BANKS = "services/bank-sync/src/bank_sync"
OPERATIONS = "services/operations/src/operations"
SUBSCRIPTION = "services/subscription/src/subscription"
ORDERS = "services/orders/src/orders"


@dataclass(frozen=True)
class Mutant:
    """`old` stands in `file` exactly once; with `new` in its place `test` must fail: a file of
    tests/integration, `chaos` and the name of a scenario, or `fuzz`."""

    what: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        "promise 1: the gateway answers without waiting for the confirm",
        f"{GATEWAY}/ingress/app.py",
        "            confirmed &= await self._publisher.publish(\n"
        "                exchange, event.type, event.encode(), content_type=CONTENT_TYPE\n"
        "            )\n",
        "            asyncio.ensure_future(self._publisher.publish(\n"
        "                exchange, event.type, event.encode(), content_type=CONTENT_TYPE\n"
        "            ))\n",
        "promises/test_promise_1_2xx_means_durable.py",
    ),
    Mutant(
        "promise 1: what was handed to the socket counts as confirmed",
        f"{MESSAGING}/confirm_channel.py",
        "        return confirmed\n",
        "        confirmed.set_result(None)\n        return confirmed\n",
        "promises/test_promise_1_2xx_means_durable.py",
    ),
    Mutant(
        "promise 2: the inbox lets every event through",
        f"{MESSAGING}/inbox.py",
        "if (event.source, event.id) in claimed and by_key",
        "if by_key",
        "promises/test_promise_2_one_effect_per_event.py",
    ),
    Mutant(
        "promise 2: the outbox is written in a transaction of its own, after the commit",
        f"{MESSAGING}/transactional_consumer.py",
        "            await work.flush()\n",
        "        async with self._sessions.begin() as work.session:\n"
        "            await __import__('asyncio').sleep(0.2)\n"
        "            await work.flush()\n",
        "promises/test_promise_2_one_effect_per_event.py",
    ),
    Mutant(
        "promise 3: what can't be decoded is passed over",
        f"{MESSAGING}/consumer.py",
        '        await self._fail(delivery, delivery.decode_error or DecodeError("not decoded"))\n',
        "        return\n",
        "promises/test_promise_3_nothing_vanishes.py",
    ),
    Mutant(
        "promise 4: an unknown outcome is not checked",
        "services/provisioning/src/provisioning/provisioner.py",
        "look_first = None, intent.outcome_unknown or self._look_first",
        "look_first = None, self._look_first",
        "promises/test_promise_4_an_unknown_outcome_is_looked_up.py",
    ),
    Mutant(
        "promise 4: a payer is asked anew when the first answer was lost",
        f"{SUBSCRIPTION}/checkouts/service.py",
        "name = checkout.reference or client.reference(",
        "name = client.reference(",
        "subscription/test_checkouts.py",
    ),
    Mutant(
        "promise 4: a payment is announced only when its start was answered",
        f"{SUBSCRIPTION}/checkouts/service.py",
        "            if client.pushes_to_payer:",
        "            if False:",
        "subscription/test_checkouts.py",
    ),
    Mutant(
        "promise 4: a payout that was sent once is sent again without asking",
        f"{PAYOUTS}/domain.py",
        "return NextAction.LOOK if attempts else NextAction.SEND",
        "return NextAction.SEND",
        "promises/test_promise_4_money_moves_once.py",
    ),
    Mutant(
        "promise 4: a provider that knows nothing of a payout yet is believed at once",
        f"{PAYOUTS}/execution/planner.py",
        "            if self._now < proved_at:",
        "            if False:",
        "promises/test_promise_4_money_moves_once.py",
    ),
    Mutant(
        "promise 4: every attempt has a key of its own",
        f"{PAYOUTS}/execution/planner.py",
        "return last.idempotency_key if fresh else None",
        "return None",
        "promises/test_promise_4_money_moves_once.py",
    ),
    Mutant(
        "payouts: a status check without an answer postpones the next ones",
        f"{PAYOUTS}/execution/planner.py",
        'f"look-up: {error}", answered=False\n',
        'f"look-up: {error}", answered=True\n',
        "payouts/test_payouts.py",
    ),
    Mutant(
        "payments: a late report of a dispute undoes its end",
        f"{SUBSCRIPTION}/domain.py",
        "        return self._order >= known._order\n",
        "        return True\n",
        "subscription/test_every_payment.py",
    ),
    Mutant(
        "payments: a refund that failed is counted",
        f"{SUBSCRIPTION}/domain.py",
        "    return max(0, refunds.total - since)\n",
        "    return refunds.total\n",
        "subscription/test_every_payment.py",
    ),
    Mutant(
        "payments: an invoice's payment intent is listed as a second payment",
        f"{SUBSCRIPTION}/repository.py",
        "    return query.where(Payment.paid.is_not(None), ~is_listed_as_invoice)\n",
        "    return query.where(Payment.paid.is_not(None))\n",
        "subscription/test_every_payment.py",
    ),
    Mutant(
        "orders: a refund of ours is held back from the sellers once more",
        f"{ORDERS}/domain.py",
        "    return min(most, max(0, refunded - ours) + disputed)\n",
        "    return min(most, refunded + disputed)\n",
        "orders/test_orders.py",
    ),
    Mutant(
        "orders: a dispute that was reported before its payment holds nothing",
        f"{SUBSCRIPTION}/payments/store.py",
        "    for row in found[payment.id]:\n        _publish(work, event, row, checkout)\n",
        "",
        "orders/test_orders.py",
    ),
    Mutant(
        "promise 4: a look-up that was overtaken is believed",
        f"{PAYOUTS}/execution/planner.py",
        "if row.version != item.version:",
        "if False:",
        "promises/test_promise_4_money_moves_once.py",
    ),
    Mutant(
        "payouts: an action's hash does not cover what it posted",
        f"{PAYOUTS}/ledger/audit_log.py",
        '        row["data"],\n',
        "",
        "payouts/test_payout_books.py",
    ),
    Mutant(
        "restore: a schedule's payout has another name each time",
        f"{PAYOUTS}/payout_service.py",
        'key = f"schedule:{recipient.id}:{occasion or recipient.scheduled + 1}"',
        "key = f\"schedule:{recipient.id}:{occasion or __import__('uuid').uuid4().hex}\"",
        "payouts/test_payouts_restore.py",
    ),
    Mutant(
        "restore: what the database forgot is not adopted",
        f"{PAYOUTS}/reconciliation/adoption.py",
        "    unrecorded = await _unrecorded(session, account, theirs)\n",
        "    unrecorded: list[Listed] = []\n",
        "payouts/test_payouts_restore.py",
    ),
    Mutant(
        "restore: what the backup has as unsent stays so",
        f"{PAYOUTS}/reconciliation/adoption.py",
        "        file = files.get(id_)\n",
        "        file = None\n",
        "payouts/test_payouts_restore.py",
    ),
    Mutant(
        "restore: payouts are sent before the accounts are compared",
        f"{PAYOUTS}/execution/planner.py",
        "        return unreconciled or (control is not None and control.paused)\n",
        "        return control is not None and control.paused\n",
        "payouts/test_payouts_restore.py",
    ),
    Mutant(
        "restore: a forgotten checkout of MTN's asks the payer again",
        f"{SUBSCRIPTION}/providers/mtn_momo.py",
        '        digest = hashlib.sha256(f"mtn-momo {checkout_id}".encode()).digest()\n',
        "        digest = __import__('uuid').uuid4().bytes\n",
        "subscription/test_checkouts.py",
    ),
    Mutant(
        "restore: a session that was paid for a forgotten checkout vanishes",
        f"{SUBSCRIPTION}/handlers.py",
        "    if checkout is None and ours is not None and report.paid:\n",
        "    if False:\n",
        "subscription/test_stripe_checkouts.py",
    ),
    Mutant(
        "Flutterwave: of a page only one attempt is looked at",
        f"{GATEWAY}/providers/flutterwave.py",
        "        if found.status is not PaymentStatus.SUCCEEDED:\n",
        "        if False:\n",
        "subscription/test_checkouts.py",
    ),
    Mutant(
        "banks: a sync that reads brings a revoked account back",
        f"{BANKS}/handlers.py",
        "            await repository.cancel_running(work.session, item.id)\n",
        "",
        "bank_sync/test_bank_sync.py",
    ),
    Mutant(
        "billing: a year is not paid for when it begins",
        f"{SUBSCRIPTION}/providers/stripe_billing.py",
        "    same = _interval(now) == _interval(price) and not begins_to_cost\n",
        "    same = True\n",
        "subscription/test_billing.py",
    ),
    Mutant(
        "Dwolla: any leg of a transfer is the payout",
        f"{PAYOUTS}/providers/dwolla.py",
        '        to_us = _linked(transfer, "destination") == account\n',
        "        to_us = False\n",
        "payouts/test_dwolla_transfers.py",
    ),
    Mutant(
        "Dwolla: a transfer's source is taken for a funding source",
        f"{PAYOUTS}/providers/dwolla.py",
        '_linked(transfer, "source") not in {None, account}',
        '_linked(transfer, "source") != self.options.funding_source',
        "payouts/test_dwolla_transfers.py",
    ),
    Mutant(
        "payouts: one of two transfers that comes back takes the payout with it",
        f"{PAYOUTS}/execution/status_updates.py",
        "    if other is not None:\n        return other, domain.after_other",
        "    if False:\n        return other, domain.after_other",
        "payouts/test_payouts.py",
    ),
    Mutant(
        "payouts: who credited what a payout pays approves it",
        f"{PAYOUTS}/operator_actions.py",
        "if by.name in row.credited_by:",
        "if False:",
        "payouts/test_payout_actions.py",
    ),
    Mutant(
        "payouts: what came back is paid with other money on its old approval",
        f"{PAYOUTS}/operator_actions.py",
        "        if account.needs_approval(needed, row.currency):\n",
        "        if False:\n",
        "payouts/test_payout_actions.py",
    ),
    Mutant(
        "payouts: where a payout goes is changed while it is approved",
        f"{PAYOUTS}/api/payouts.py",
        "        await repository.hold_recipient(session, found.recipient_id)\n",
        "",
        "payouts/test_payout_actions.py",
    ),
    Mutant(
        "payouts: what waits for approval can't be paid, whatever the provider says",
        f"{PAYOUTS}/domain.py",
        "_UNSENT = frozenset({State.SCHEDULED, State.APPROVED})",
        "_UNSENT = frozenset({State.APPROVED})",
        "payouts/test_payouts.py",
    ),
    Mutant(
        "payouts: what somebody writes into their own account is believed",
        f"{PAYOUTS}/reconciliation/adoption.py",
        "    return not listed.of_recipient or listed.destination == recipient.provider_ref\n",
        "    return True\n",
        "payouts/test_payout_books.py",
    ),
    Mutant(
        "payouts: a withdrawal is booked as a deposit",
        f"{PAYOUTS}/ledger/entries.py",
        "    return [Entry(each.target, each.source, each.amount) for each in reversed(entries)]\n",
        "    return entries\n",
        "payouts/test_payout_books.py",
    ),
    Mutant(
        "rights: of two events of one second the one that was recorded last wins",
        f"{SUBSCRIPTION}/domain.py",
        "    ends = {facts for facts, count in reached.items() if count > 0}\n",
        "    ends = set(reached)\n",
        "subscription/test_stripe_rights.py",
    ),
    Mutant(
        "rights: a circle within one second ends with what was recorded last",
        f"{SUBSCRIPTION}/domain.py",
        "    if reached and not ends and before is not None:\n",
        "    if False:\n",
        "promises/test_promise_5_who_pays_is_entitled.py",
    ),
    Mutant(
        "rights: unpaid is past due",
        f"{GATEWAY}/providers/stripe.py",
        '"unpaid": Status.UNPAID',
        '"unpaid": Status.PAST_DUE',
        "promises/test_promise_5_who_pays_is_entitled.py",
    ),
    Mutant(
        "rights: an end that the portal has set is not taken back",
        f"{SUBSCRIPTION}/providers/stripe_billing.py",
        '(("cancel_at_period_end", False), ("cancel_at", ""))',
        '(("cancel_at_period_end", False),)',
        "subscription/test_billing.py",
    ),
    Mutant(
        "rights: whose event it is does not matter",
        f"{GATEWAY}/providers/stripe.py",
        "not_served = self._not_served(webhook)",
        "not_served = None",
        "promises/test_promise_5_who_pays_is_entitled.py",
    ),
    Mutant(
        "billing: what was answered 503 is done later",
        f"{SUBSCRIPTION}/billing/commands.py",
        "row.accepted_at = None if alone else func.clock_timestamp()",
        "row.status, row.accepted_at = CommandStatus.ACCEPTED, func.clock_timestamp()",
        "subscription/test_billing.py",
    ),
    Mutant(
        "billing: a dearer plan is changed to whether or not it is paid",
        f"{SUBSCRIPTION}/providers/stripe_billing.py",
        '                    "payment_behavior": "error_if_incomplete",\n',
        "",
        "subscription/test_billing.py",
    ),
    Mutant(
        "billing: what a later command took the place of is done after it",
        f"{SUBSCRIPTION}/billing/commands.py",
        "            if later and status == CommandStatus.DONE:\n",
        "            if False:\n",
        "subscription/test_billing_turns.py",
    ),
    Mutant(
        "billing: two commands about one subscription are under way at once",
        f"{SUBSCRIPTION}/billing/commands.py",
        "            if is_under_way or (later and status == CommandStatus.ACCEPTED):\n",
        "            if False:\n",
        "subscription/test_billing_turns.py",
    ),
    Mutant(
        "billing: a command that is under way is given up",
        f"{SUBSCRIPTION}/billing/commands.py",
        "            alone = row.begun == (row.ended if seen is None else seen)\n",
        "            alone = seen is not None or row.begun == row.ended\n",
        "subscription/test_billing_turns.py",
    ),
    Mutant(
        "orders: a payment's time is that of our question",
        f"{GATEWAY}/polling/poller.py",
        "time=domain.paid_at(result.at, row.created_at, now),",
        "time=now,",
        "orders/test_orders.py",
    ),
    Mutant(
        "bank data: a worker whose sync was taken over writes all the same",
        f"{BANKS}/sync_runner.py",
        'if sync.lease != running.lease or sync.status != "running":',
        "if False:",
        "bank_sync/test_bank_sync_model.py",
    ),
    Mutant(
        "bank data: an update that was disturbed goes on from its last page",
        f"{BANKS}/sync_runner.py",
        "            update, cursor = SyncUpdate(), since\n",
        "            update, cursor = SyncUpdate(), (since if not restarts else cursor)\n",
        "bank_sync/test_bank_sync.py",
    ),
    Mutant(
        "bank data: rows are not secured against their own service",
        f"{BANKS}/migrations/versions/0001_tables.py",
        'op.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")',
        "pass",
        "bank_sync/test_bank_sync_tenants.py",
    ),
    Mutant(
        "bank data: a sync heals what was told while it read",
        f"{BANKS}/sync_runner.py",
        "if health is not Health(item.health) and item.health_at <= running.begun:",
        "if health is not Health(item.health):",
        "bank_sync/test_bank_sync.py",
    ),
    Mutant(
        "bank data: a sync's balance replaces one that was asked for later",
        f"{BANKS}/sync_writer.py",
        "if row.live_at is not None and row.live_at > read_at:",
        "if False:",
        "bank_sync/test_bank_sync.py",
    ),
    Mutant(
        "bank data: a Redis that is away lets every call through",
        f"{BANKS}/clients/rate_limiter.py",
        """                log.warning("redis_unavailable_using_postgresql", error=str(error))
""",
        "                return\n",
        "bank_sync/test_bank_limits.py",
    ),
    Mutant(
        "operations: who takes a replay over sends again what was sent",
        f"{OPERATIONS}/repository/replays.py",
        ".where(open_, equals_any(ReplayItem.id, sorted(sent)))",
        ".where(open_, equals_any(ReplayItem.id, []))",
        "operations/test_operations.py",
    ),
    Mutant(
        "operations: a message that is tried again forgets its replay",
        f"{MESSAGING}/delivery.py",
        "_KEPT = frozenset({queue_recovery.ORDER, replay_marker.MARK})",
        "_KEPT = frozenset({queue_recovery.ORDER})",
        "operations/test_operations.py",
    ),
    Mutant(
        "promise 5: the report that comes last wins",
        f"{SUBSCRIPTION}/domain.py",
        "    return _with(before, snapshot, tuple(kept))\n",
        "    return _with(before, snapshot, (snapshot,))\n",
        "promises/test_promise_5_order_does_not_matter.py",
    ),
    Mutant(
        "promise 5: what was in use once is forgotten",
        f"{SUBSCRIPTION}/domain.py",
        "ever_active=before.ever_active or snapshot.facts.status in _WAS_ACTIVE",
        "ever_active=snapshot.facts.status in _WAS_ACTIVE",
        "promises/test_promise_5_order_does_not_matter.py",
    ),
    Mutant(
        "promise 6: messages are acknowledged before they are handled",
        f"{MESSAGING}/transactional_consumer.py",
        "                await self._handle(batch)\n",
        "                await self._acknowledge(batch[-1], multiple=True)\n"
        "                await self._handle(batch)\n"
        "                continue\n",
        "promises/test_promise_6_any_process_may_die.py",
    ),
    Mutant(
        "promise 6: every replica's scheduler ticks for itself",
        "libs/common/src/common/scheduling/scheduler.py",
        "if not await session.scalar(select(_LEADER_LOCK)):",
        "if False:",
        "promises/test_promise_6_any_process_may_die.py",
    ),
    Mutant(
        "relay: what was held leaves a batch at a time, every ten seconds",
        f"{MESSAGING}/relay.py",
        "        if full and batch.more:",
        "        if False:",
        "messaging/test_broker_trouble.py",
    ),
    Mutant(
        "relay: a queue that refuses holds up all others",
        f"{MESSAGING}/relay.py",
        "            others = _DESTINATION.not_in(self._backoff.blocked())\n",
        "            others = _DESTINATION.is_not(None)\n",
        "messaging/test_broker_trouble.py",
    ),
    Mutant(
        "relay: rows are removed whether or not the broker confirmed them",
        f"{MESSAGING}/relay.py",
        "equals_any(outbox.c.position, confirmed)",
        "equals_any(outbox.c.position, [row.position for row in rows])",
        "messaging/test_relay_and_inbox.py",
    ),
    Mutant(
        "promise 7: whatever a provider answers counts as success",
        f"{GATEWAY}/domain.py",
        "    if answer is PaymentStatus.SUCCEEDED:\n        return Step(answer, None)\n",
        "    if answer:\n        return Step(PaymentStatus.SUCCEEDED, None)\n",
        "promises/test_promise_7_no_forged_call_has_an_effect.py",
    ),
    Mutant(
        "promise 4: a report about a payout whose approval is void is forgotten",
        f"{PAYOUTS}/execution/planner.py",
        "            if not (ask and row.attempts):\n                return None\n",
        "            return None\n",
        "promises/test_promise_4_money_moves_once.py",
    ),
    Mutant(
        "provisioning: what a late call undid is not done again",
        "services/provisioning/src/provisioning/provisioner.py",
        "            row.outcome_unknown = row.late_calls != intent.late_calls\n",
        "            row.outcome_unknown = False\n",
        "provisioning/test_provisioning_late_calls.py",
    ),
    Mutant(
        "provisioning: an open circuit hides a late call",
        "services/provisioning/src/provisioning/provisioner.py",
        "row.outcome_unknown = intent.outcome_unknown or late\n",
        "row.outcome_unknown = intent.outcome_unknown\n",
        "provisioning/test_provisioning_late_calls.py",
    ),
    Mutant(
        "promise 7: polls have no rate limit",
        f"{GATEWAY}/repository.py",
        "    await rate.use(session, len(claimed))\n",
        "",
        "promises/test_promise_7_no_forged_call_has_an_effect.py",
    ),
    Mutant(
        "promise 8: no payment is polled before a notification arrives",
        f"{GATEWAY}/handlers.py",
        '"next_poll_at": event.recordedtime + FIRST_POLL,',
        '"next_poll_at": None,',
        "promises/test_promise_8_a_webhook_that_never_came_is_healed.py",
    ),
    Mutant(
        "promise 8: what was told is not remembered",
        f"{GATEWAY}/polling/poller.py",
        "            row.published_status = step.publish\n",
        "",
        "promises/test_promise_8_a_webhook_that_never_came_is_healed.py",
    ),
    Mutant(
        "promise 7: any secret will do",
        f"{GATEWAY}/providers/signatures.py",
        "    if not any(matches):\n",
        "    if not matches:\n",
        "fuzz",
    ),
    Mutant(
        "promise 7: strange structures are not expected",
        f"{GATEWAY}/providers/base.py",
        "except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as",
        "except LookupError as",
        "fuzz",
    ),
    Mutant(
        "provisioning: after a restore it creates what is there",
        "services/provisioning/src/provisioning/provisioner.py",
        "look_first = None, intent.outcome_unknown or self._look_first",
        "look_first = None, intent.outcome_unknown",
        "runtime/test_restore.py",
    ),
    Mutant(
        "provisioning: a creation that was cut short stays without its admin",
        "services/provisioning/src/provisioning/provisioner.py",
        "if intent.operation is Operation.RESUME and not intent.admin_created:",
        "if False:",
        "provisioning/test_provisioning.py",
    ),
    Mutant(
        "rights: each update begins the grace of who is past due anew",
        "services/subscription/src/subscription/domain.py",
        "            return min(since)\n",
        "            return max(since)\n",
        "subscription/test_stripe_rights.py",
    ),
    Mutant(
        "refunds: one that fails after it was made stays given back",
        "services/orders/src/orders/handlers.py",
        "if refund.state == RefundState.SUCCEEDED and not failed_later:",
        "if refund.state == RefundState.SUCCEEDED:",
        "orders/test_orders.py",
    ),
    Mutant(
        "orders: a further charge is taken for the first one",
        "services/orders/src/orders/handlers.py",
        "    if report.charge is not None:\n",
        "    if False:\n",
        "orders/test_orders.py",
    ),
    Mutant(
        "billing: what was done to a subscription of several plans is told as refused",
        "services/subscription/src/subscription/providers/stripe_billing.py",
        '        "plan": plans[0] if plans else None,\n',
        '        "plan": _plan(_item(subscription)),\n',
        "subscription/test_billing.py",
    ),
    Mutant(
        "rights: the first item of a subscription is the only one",
        "services/subscription/src/subscription/subscriptions/store.py",
        "    if row.items:\n",
        "    if False:\n",
        "subscription/test_billing.py",
    ),
    Mutant(
        "restore: what came back is retried before its account is compared",
        "services/payouts/src/payouts/operator_actions.py",
        "        check_reconciled(recipient, await repository.unreconciled(session))\n",
        "",
        "payouts/test_payouts_restore.py",
    ),
    Mutant(
        "restore: what was cancelled after the backup is paid",
        "services/payouts/src/payouts/reconciliation/adoption.py",
        "    if not short:\n",
        "    if True:\n",
        "payouts/test_payouts_restore.py",
    ),
    Mutant(
        "rights: a pause that comes alone says nothing of what was before",
        "services/webhook-gateway/src/webhook_gateway/providers/stripe.py",
        'webhook["data"].get("previous_attributes") or _IMPLIED.get(provider_type)',
        'webhook["data"].get("previous_attributes")',
        "subscription/test_stripe_rights.py",
    ),
    Mutant(
        "restore: schedules pay before the account is compared",
        "services/payouts/src/payouts/repository.py",
        "        .where(_reconciled(Recipient))\n",
        "",
        "payouts/test_payouts_restore.py",
    ),
    Mutant(
        "restore: what is requested is ordered before the account is compared",
        "services/payouts/src/payouts/earnings.py",
        "        check_reconciled(recipient, await repository.unreconciled(work.session))\n",
        "",
        "payouts/test_payouts_restore.py",
    ),
    Mutant(
        "redis: a connection by TLS gets no more time than an answer",
        "libs/common/src/common/resilience/redis.py",
        "_TLS_CONNECT_SECONDS if by_tls else _ANSWER_SECONDS",
        "_ANSWER_SECONDS",
        "runtime/test_tls.py",
    ),
    Mutant(
        "chaos, inbox: it lets every event through",
        f"{MESSAGING}/inbox.py",
        "if (event.source, event.id) in claimed and by_key",
        "if by_key",
        "chaos triple",
    ),
    Mutant(
        "chaos, relay: rows are removed whether or not the broker confirmed them",
        f"{MESSAGING}/relay.py",
        "equals_any(outbox.c.position, confirmed)",
        "equals_any(outbox.c.position, [row.position for row in rows])",
        "chaos kill-broker",
    ),
    Mutant(
        "chaos, ack: messages are acknowledged before they are handled",
        f"{MESSAGING}/transactional_consumer.py",
        "                await self._handle(batch)\n",
        "                await self._acknowledge(batch[-1], multiple=True)\n"
        "                await self._handle(batch)\n"
        "                continue\n",
        "chaos kill-processes",
    ),
    Mutant(
        "security: what a payer is called stays in the clear part of a request",
        f"{SUBSCRIPTION}/checkouts/payers.py",
        "if name not in _OF_REQUEST}\n    terms",
        "}\n    terms",
        "../security/test_sealing.py",
    ),
    Mutant(
        "security: rotating keys leaves what is sealed with an older one",
        "libs/common/src/common/db/key_rotation.py",
        "            setattr(row, column.name, value)\n",
        "            pass\n",
        "../security/test_sealing.py",
    ),
    Mutant(
        "security: a login at the broker may send to every queue",
        "libs/common/src/common/contracts/logins.py",
        "topics |= dict.fromkeys(addressed, own)",
        'topics |= dict.fromkeys(addressed, ".*")',
        "../security/test_broker_logins.py",
    ),
    Mutant(
        "security: a login at the broker may publish every event",
        "libs/common/src/common/contracts/logins.py",
        "exchange: _any_of([*types, *_OF_ALL.get(exchange, ())])",
        'exchange: _any_of([*types, ".*"])',
        "../security/test_broker_logins.py",
    ),
    Mutant(
        "security: FastAPI traces queries",
        "libs/common/src/common/http/app.py",
        ", telemetry=_SILENT",
        "",
        "../security/test_outputs.py",
    ),
    Mutant(
        "security: ids stand in spans as they are",
        "libs/common/src/common/observability/tracing.py",
        "_redact(event.id)",
        "event.id",
        "../security/test_outputs.py",
    ),
    Mutant(
        "security: a body has as many values as it likes",
        "libs/common/src/common/http/middleware.py",
        "if body.count(b",
        "if False and body.count(b",
        "../security/test_requests.py",
    ),
    Mutant(
        "payouts: a retry of what came back that is given up is the platform's",
        f"{PAYOUTS}/ledger/unit_of_work.py",
        'funding = "balance" if row.fee_charged else row.funding',
        "funding = row.funding",
        "payouts/test_payout_actions.py",
    ),
    Mutant(
        "payouts: what came back in parts is owed once more when all of it came back",
        f"{PAYOUTS}/ledger/entries.py",
        "sum_.amount - sum_.returned)",
        "sum_.amount)",
        "payouts/test_payout_books.py",
    ),
    Mutant(
        "orders: after a restore what came late and went back is the price",
        "services/orders/src/orders/handlers.py",
        "    if order.state in UNPAID and paid_at > ",
        "    if False and paid_at > ",
        "runtime/test_restore.py",
    ),
    Mutant(
        "requests: any number waits on one connection",
        "libs/common/src/common/http/server_protocol.py",
        "        if len(self.pipeline) >= _MOST_PIPELINED:\n",
        "        if False:\n",
        "../security/test_requests.py",
    ),
    Mutant(
        "payouts: a schedule pays while the tenant is paused",
        f"{PAYOUTS}/repository.py",
        "        .where(Recipient.tenant.not_in("
        "select(TenantControl.tenant).where(TenantControl.paused)))\n",
        "",
        "payouts/test_payouts_restore.py",
    ),
    Mutant(
        "payouts: what is taken back hides who credited the rest",
        f"{PAYOUTS}/ledger/repository.py",
        "            if role in NOBODY:\n",
        "            if True:\n",
        "payouts/test_payout_actions.py",
    ),
    Mutant(
        "payouts: the fee of what came back depends on what was told first",
        f"{PAYOUTS}/ledger/entries.py",
        "        case LedgerAccount.AVAILABLE:\n",
        "        case LedgerAccount.PLATFORM:\n",
        "payouts/test_payouts.py",
    ),
    Mutant(
        "billing: a change of plan drops the seats",
        f"{SUBSCRIPTION}/providers/stripe_billing.py",
        '"price": request.plan_id, **_quantity(item)}],\n                    "proration',
        '"price": request.plan_id}],\n                    "proration',
        "subscription/test_billing.py",
    ),
    Mutant(
        "security: a process with its own login does not wait for its version's bindings",
        f"{MESSAGING}/topology_declarer.py",
        "*([] if declared else [mark])",
        "",
        "../security/test_broker_logins.py",
    ),
    Mutant(
        "security: what a login may not publish holds up the whole outbox and the spool",
        f"{MESSAGING}/backoff.py",
        "    if not any(map(_is_refused, outcomes)):\n",
        "    if True:\n",
        "../security/test_broker_logins.py",
    ),
    Mutant(
        "billing: what was not paid is a credit for another plan",
        f"{SUBSCRIPTION}/providers/stripe_billing.py",
        'if is_unpaid or subscription["status"] in {"past_due", "unpaid"}:',
        "if False:",
        "subscription/test_billing.py",
    ),
    Mutant(
        "billing: a planned change loses the subscription's payment method",
        f"{SUBSCRIPTION}/providers/stripe_billing.py",
        'changed["default_settings"] = {"default_payment_method": method}',
        "pass",
        "subscription/test_billing.py",
    ),
    Mutant(
        "billing: what was partly done is said not to be",
        f"{SUBSCRIPTION}/billing/commands.py",
        "            if error.partly:\n",
        "            if False:\n",
        "subscription/test_billing.py",
    ),
    Mutant(
        "orders: a further charge does not wait for the first",
        f"{SUBSCRIPTION}/checkouts/outcomes.py",
        "if checkout.status not in {CheckoutStatus.PAID, CheckoutStatus.UNDERPAID}:",
        "if False:",
        "orders/test_orders.py",
    ),
    Mutant(
        "gateway: a search for further charges ends at one failure",
        f"{GATEWAY}/domain.py",
        "2 * _MAX_SILENCE if watch.published_status is PaymentStatus.SUCCEEDED else _MAX_SILENCE",
        "_MAX_SILENCE if watch.published_status is PaymentStatus.PENDING else timedelta(0)",
        "../unit/test_watching_payments.py",
    ),
    Mutant(
        "banks: balances that are being read bring a revoked account back",
        f"{BANKS}/item_service.py",
        "for id_, each in by_id.items() if id_ not in revoked]",
        "for id_, each in by_id.items()]",
        "bank_sync/test_bank_sync.py",
    ),
    Mutant(
        "operations: a list reads what was sent",
        f"{OPERATIONS}/repository/dead_letters.py",
        "select(DeadLetter).options(_LISTED).where(*matching(chosen, tenant))",
        "select(DeadLetter).where(*matching(chosen, tenant))",
        "operations/test_operations.py",
    ),
    Mutant(
        "broker: a connection that confirms nothing any more is kept",
        f"{MESSAGING}/publisher.py",
        "        if channel.silent_seconds < _LONGEST_SILENCE_SECONDS:\n",
        "        if True:\n",
        "messaging/test_broker_trouble.py",
    ),
    Mutant(
        "security: a caller who does not read keeps the connection",
        "libs/common/src/common/http/server_protocol.py",
        "        self._reading_ends = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)\n",
        "        pass\n",
        "../security/test_requests.py",
    ),
    Mutant(
        "security: an amount of a million digits is written out",
        "libs/common/src/common/contracts/money.py",
        " or scaled.adjusted() >= _MOST_DIGITS",
        "",
        "../unit/test_outside.py",
    ),
)

_CHAOS_WEBHOOKS = 3000
# How pytest, chaos and fuzz say that they found something.
_SEEN = (r"^FAILED ", r"^BROKEN: ", r"^FOUND: ")


def main(only: str = "") -> int:
    survivors = 0
    chosen = [mutant for mutant in MUTANTS if only in mutant.what]
    if not chosen:
        names = "\n  ".join(mutant.what for mutant in MUTANTS)
        raise SystemExit(f"no mutant has {only!r} in its name; there are\n  {names}")
    for mutant in chosen:
        caught = _is_caught(mutant)
        survivors += not caught
        print(f"{'caught  ' if caught else 'SURVIVED'}  {mutant.what}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants caught")
    return 1 if survivors else 0


def _is_caught(mutant: Mutant) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        sources = [Path("libs/common/src"), *Path(ROOT).glob("services/*/src")]
        copies = []
        for source in sources:
            relative = source.relative_to(ROOT) if source.is_absolute() else source
            copies.append(Path(folder) / relative)
            shutil.copytree(ROOT / relative, copies[-1])
        file = Path(folder) / mutant.file
        text = file.read_text()
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.what}: its text does not stand in {mutant.file} once")
        file.write_text(text.replace(mutant.old, mutant.new))
        ended = subprocess.run(
            [sys.executable, *_command(mutant.test)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*copies, ROOT / "tests"]))},
            capture_output=True,
            text=True,
            check=False,
        )
        said = ended.stdout + ended.stderr
        # Caught is what the test says it saw; a broker that did not start is not.
        seen = any(re.search(sign, said, re.MULTILINE) for sign in _SEEN)
        if (ended.returncode != 0 and not seen) or re.search(r"^ERROR ", said, re.MULTILINE):
            raise SystemExit(f"{mutant.what}: the test itself failed\n{said}")
        return ended.returncode != 0


def _command(test: str) -> list[str]:
    kind, _, scenario = test.partition(" ")
    if kind == "chaos":
        webhooks = str(_CHAOS_WEBHOOKS)
        return ["-m", "chaos", "--scenarios", scenario, "--webhooks", webhooks, "--seed", "1"]
    if kind == "fuzz":
        return ["-m", "fuzz", "--inputs", "2000", "--seed", "1", "--idle", "100"]
    path = str(ROOT / "tests/integration" / test)
    return ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", path]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))

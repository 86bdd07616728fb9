"""A service has a handler for everything its queues are bound to, and no unused handler."""

from __future__ import annotations

import pytest

from bank_sync import handlers as bank_handlers
from common.contracts.asyncapi import queues_of
from common.contracts.registry import EVENT_TYPES
from operations.handlers import COMPLETIONS, OUTCOMES
from orders.handlers import HANDLERS as ORDERS_HANDLERS
from payouts.earnings import Earnings
from payouts.execution.status_updates import StatusCheckDelays
from payouts.handlers import Reports
from payouts.settings import PRIORITIES
from provisioning.handlers import Handlers
from subscription.handlers import HANDLERS
from webhook_gateway.handlers import Handlers as GatewayHandlers


def _types_of(queue: str) -> set[str]:
    return {type_ for type_ in EVENT_TYPES if queue in queues_of(type_)}


def test_subscription_handles_what_its_queue_gets() -> None:
    assert _types_of("subscription.billing") == set(HANDLERS)


def test_the_gateway_s_worker_handles_what_its_queue_gets() -> None:
    handlers = GatewayHandlers(lambda: None).by_event()
    assert _types_of("webhook-gateway.payments") == set(handlers)


def test_provisioning_handles_what_its_queue_gets() -> None:
    handlers = Handlers(None).by_event()  # type: ignore[arg-type]
    assert _types_of("provisioning.subscriptions") == set(handlers)


def test_payouts_handles_what_its_queue_gets() -> None:
    assert _types_of("payouts.reports") == set(Reports(StatusCheckDelays()).by_event())


def test_orders_handles_what_its_queue_gets() -> None:
    assert _types_of("orders.payments") == set(ORDERS_HANDLERS)


def test_payouts_handles_what_others_request() -> None:
    earnings = Earnings(None)  # type: ignore[arg-type]
    assert _types_of("payouts.requests") == set(earnings.by_event())


def test_bank_sync_handles_what_its_queue_gets() -> None:
    assert _types_of("bank-sync.items") == set(bank_handlers.HANDLERS)


def test_operations_handles_what_its_queue_gets() -> None:
    assert _types_of("operations.outcomes") == set(OUTCOMES)
    assert _types_of("operations.completions") == set(COMPLETIONS)


@pytest.mark.parametrize("priority", PRIORITIES)
def test_each_priority_of_payouts_has_its_own_queue(priority: str) -> None:
    work = {"payout_report.generate", "payout_reconciliation.run"} if priority == "low" else set()
    assert _types_of(f"payouts.{priority}") == {f"payout.process.{priority}", *work}


def test_commands_and_jobs_reach_their_own_queue() -> None:
    assert _types_of("provisioning.organizations") == {"organization.reconcile"}
    assert _types_of("provisioning.jobs") == {"job.run.provisioning"}
    assert _types_of("subscription.jobs") == {"job.run.subscription"}
    assert _types_of("subscription.commands") == {"billing_command.resume"}
    assert _types_of("subscription.refunds") == {"refund.requested"}
    assert _types_of("orders.jobs") == {"job.run.orders"}
    assert _types_of("payouts.jobs") == {"job.run.payouts"}
    assert _types_of("operations.jobs") == {"job.run.operations"}
    assert _types_of("bank-sync.jobs") == {"job.run.bank_sync"}
    assert _types_of("bank-sync.syncs") == {"bank_sync.run", "bank_item.remove"}

"""Promise 5: any permutation and duplication of one object's events ends in the same state."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from conftest import MakePaybus
from devstack.webhook import subscription_created
from support.paybus import Paybus
from support.waiting import until


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(["webhook-gateway", "subscription-worker"]) as paybus:
        yield paybus


def _life(number: str) -> list[dict[str, Any]]:
    """Return one subscription's webhooks, two of them in the same second, as Stripe sends them."""
    start = int(time.time()) - 1000

    def event(name: str, kind: str, at: int, **changes: Any) -> dict[str, Any]:
        webhook = subscription_created(number)
        webhook |= {"id": f"evt_{number}_{name}", "type": kind, "created": start + at}
        webhook["data"]["object"] |= changes
        return webhook

    invoice = {
        "id": f"evt_{number}_paid",
        "object": "event",
        "type": "invoice.paid",
        "created": start + 1,
        "data": {
            "object": {
                "id": f"in_{number}",
                "object": "invoice",
                "customer": f"cus_{number}",
                "customer_email": f"{number}@example.com",
                "amount_paid": 1500,
                "amount_due": 1500,
                "currency": "eur",
                "parent": {"subscription_details": {"subscription": f"sub_{number}"}},
            }
        },
    }
    updated = "customer.subscription.updated"
    return [
        event("created", "customer.subscription.created", 0, status="incomplete"),
        event("active", updated, 0, status="active"),
        invoice,
        event("late", updated, 500, status="past_due"),
        event("ended", "customer.subscription.deleted", 900, status="canceled"),
    ]


_STATE = """
SELECT s.status, s.ever_active, s.snapshots->-1->>'lifecycle', s.snapshot_at - p.reported_at,
       p.paid, p.amount, c.email IS NOT NULL, s.cancel_at_period_end
FROM subscriptions s
JOIN payments p ON p.subscription_id = s.id JOIN customers c ON c.id = s.customer_id
WHERE s.provider_subscription_id = %s
"""


def test_promise_5_every_permutation_of_a_subscriptions_webhooks_ends_in_the_same_state(
    paybus: Paybus,
) -> None:
    orders = list(permutations(range(5)))
    chance = random.Random(5)
    sent = 0
    for index, order in enumerate(orders):
        life = _life(f"p{index}")
        for position in order:
            for _ in range(chance.choice([1, 1, 2])):
                assert paybus.send(life[position]).status_code == 200
                sent += 1
    taken = "SELECT count(*) FROM inbox"
    until(
        lambda: paybus.sql("subscription", taken)[0][0] == 5 * len(orders),
        what="every event was taken in once",
    )
    states = {paybus.sql("subscription", _STATE, f"sub_p{i}")[0] for i in range(len(orders))}
    assert len(states) == 1, states
    (state,) = states
    assert state[:3] == ("cancelled", True, "deleted")
    assert paybus.messages("subscription.billing.dead") == []
    assert sent > 5 * len(orders)


def test_promise_5_what_was_told_last_agrees_with_the_state_in_every_order(
    paybus: Paybus,
) -> None:
    """Provisioning follows only `activated` and `cancelled`: the last must match the state."""
    told: dict[str, list[tuple[int, str]]] = {}
    until(
        lambda: paybus.sql("subscription", "SELECT count(*) FROM outbox")[0][0] == 0,
        what="the outbox is empty",
    )
    for event in paybus.journal():
        if event["type"] in {"subscription.activated", "subscription.cancelled"}:
            told.setdefault(event["subject"], []).append((event["sequence"], event["type"]))
    assert len(told) == 120
    assert {max(events)[1] for events in told.values()} == {"subscription.cancelled"}

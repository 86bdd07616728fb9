"""A refused refund is retried only on a request that knows of the refusal, never by an old one."""

from __future__ import annotations

from typing import Any

import pytest

from common.clients.accounts_file import gateway_source
from common.contracts.event import Event
from common.contracts.payments import RefundReported, RefundRequested
from common.messaging.events import new_event
from conftest import MakePaybus
from support.paybus import Paybus
from support.waiting import until

_CHECKOUT = """
    INSERT INTO checkouts (id, tenant, provider, account, idempotency_key, terms, payer, status,
                           amount, currency, reference, paid_at)
    VALUES ('c1', 'default', 'stripe', 'default', 'k', %s, '', 'paid', 500, 'USD', 'cs_unknown',
            now())
"""
# The first attempt, re_1, failed after it was made; Stripe is processing another one.
_UNDER_WAY = """
    INSERT INTO refunds (id, tenant, provider, checkout_id, amount, currency, reason, status,
                         attempts, provider_refund_id)
    VALUES ('r1', 'default', 'stripe', 'c1', 500, 'USD', 'returned', 'requested', 2, 're_1')
"""
_REQUEST = (
    '{"provider": "stripe", "amount": 500, "currency": "USD", "customer": {"reference": "x"}, '
    '"return_url": "https://shop.example.com/", "purpose": "order/1"}'
)


def asked(number: int) -> Event[Any]:
    return new_event(
        id=f"asked-{number}",
        type="refund.requested",
        source="/orders",
        subject="r1",
        tenant="default",
        sequence=number,
        data=RefundRequested(
            refund_id="r1",
            checkout_id="c1",
            amount=500,
            currency="USD",
            reason="returned",
            again=number > 1,
        ),
    )


@pytest.mark.timeout(120)
def test_a_refusal_is_not_undone_by_the_same_request(make_paybus: MakePaybus) -> None:
    """An operator may have refunded it manually since."""
    with make_paybus(["sandbox-stripe", "subscription-worker"]) as paybus:
        paybus.sql("subscription", _CHECKOUT, _REQUEST)
        for number in (1, 2):
            _publish(paybus, number)
            until(lambda: _row(paybus)[:2] == ("failed", number), what="Stripe refuses it")
        assert _row(paybus)[2] == 2, "a key of its own, or the refusal would be repeated"
        for number in (2, 1):  # a redelivery, or a replay
            _publish(paybus, number)
        paybus.publish_to("payments", "refund.requested", _other().encode().decode())
        until(lambda: _row(paybus, "r2")[:2] == ("failed", 1), what="what came after it is done")
        assert _row(paybus)[:2] == ("failed", 2), "nobody was asked a third time"


def test_a_failure_that_is_told_again_does_not_end_the_attempt_after_it(
    make_paybus: MakePaybus,
) -> None:
    """Otherwise an operator could confirm manually a refund that is in progress."""
    with make_paybus(["subscription-worker"]) as paybus:
        paybus.sql("subscription", _CHECKOUT, _REQUEST)
        paybus.sql("subscription", _UNDER_WAY)
        paybus.publish_to("payments", "refund.reported", failed("re_1").encode().decode())
        paybus.publish_to("payments", "refund.reported", failed("re_2").encode().decode())
        until(lambda: _row(paybus)[:2] == ("failed", 1), what="the second attempt failed")
        kept = "SELECT provider_refund_id FROM refunds"
        assert paybus.sql("subscription", kept) == [("re_2",)]


def failed(refund_id: str) -> Event[Any]:
    return new_event(
        id=f"failed-{refund_id}",
        type="refund.reported",
        source=gateway_source("stripe", "default"),
        subject=refund_id,
        tenant="default",
        data=RefundReported(
            provider="stripe",
            refund_id=refund_id,
            reference="r1",
            status="failed",
            amount=500,
            currency="USD",
        ),
    )


def _other() -> Event[Any]:
    first = asked(1)
    data = first.data.model_copy(update={"refund_id": "r2"})
    return first.model_copy(update={"id": "other", "subject": "r2", "data": data})


def _publish(paybus: Paybus, number: int) -> None:
    paybus.publish_to("payments", "refund.requested", asked(number).encode().decode())


def _row(paybus: Paybus, id_: str = "r1") -> tuple[str, int, int]:
    query = "SELECT status, reports, attempts FROM refunds WHERE id = %s"
    found = paybus.sql("subscription", query, id_)
    return found[0] if found else ("", 0, 0)

"""Promise 7: no forged call has an effect. An unsigned call is a notification: the provider is
queried.

Tests of refused signed calls are in tests/unit/test_provider_vectors.py and test_plaid_webhooks.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest

from conftest import MakePaybus
from support.mobile_money import PROVIDERS, asked, checkout, deliver, long_ago, tap
from support.paybus import Paybus
from support.waiting import until

PROCESSES = ["sandbox-providers", "webhook-gateway", "webhook-gateway-worker"]


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(PROCESSES) as paybus:
        tap(paybus)
        deliver(paybus)
        yield paybus


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_forged_success_has_no_effect_and_the_true_one_has(paybus: Paybus, provider: str) -> None:
    payment = checkout(paybus, provider)
    payment.announce_and_ask()
    until(lambda: asked(paybus, provider) > 0, what="the provider was asked")
    before = asked(paybus, provider)
    long_ago(payment)
    payment.forge("succeeded")
    until(lambda: asked(paybus, provider) > before, what="the provider was asked")
    assert payment.told() == []
    long_ago(payment)
    payment.settle("succeeded")
    until(lambda: payment.told() == ["payment.succeeded"], what="the truth is told")
    (event,) = payment.events()
    assert event["trust"] == "requery"
    assert event["correlationid"] == payment.event.id
    assert (event["data"]["amount"], event["data"]["currency"]) == (500, "XAF")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_forged_failure_has_no_effect_either(paybus: Paybus, provider: str) -> None:
    payment = checkout(paybus, provider)
    payment.announce_and_ask()
    payment.settle("succeeded")
    payment.forge("failed")
    until(lambda: payment.told() == ["payment.succeeded"], what="the truth is told")
    payment.forge("failed")
    payment.forge("expired")
    until(lambda: paybus.depths()["webhook-gateway.payments"] == 0, what="the hints are taken")
    assert payment.told() == ["payment.succeeded"]


def test_a_flood_of_hints_about_nothing_is_asked_about_at_a_bounded_rate(
    make_paybus: MakePaybus,
) -> None:
    settings = {"PAYMENT_POLLS_PER_SECOND": "2", "PAYMENT_POLL_BURST": "5"}
    with make_paybus(PROCESSES, **settings) as paybus:
        tap(paybus)
        deliver(paybus)
        real = checkout(paybus, "mtn-momo")
        real.announce_and_ask()
        started = _clock(paybus)
        for _ in range(300):
            body = json.dumps({"externalId": str(uuid4()), "status": "SUCCESSFUL"}).encode()
            assert paybus.call("mtn-momo", body).status_code == 200
        real.settle("succeeded")
        # Payments that a checkout of ours announced come first, however many others wait.
        until(lambda: real.told() == ["payment.succeeded"], what="the real one is told")
        allowed = 5 + 2 * (_clock(paybus) - started) + 2
        assert asked(paybus, "mtn-momo") <= allowed
        told = {each["type"] for each in paybus.tapped()}
        assert told == {"payment.notification_received", "payment.succeeded"}
        assert paybus.dead_letters() == {}


def _clock(paybus: Paybus) -> float:
    seconds: float = paybus.sql("webhook-gateway", "SELECT extract(epoch FROM now())::float8")[0][0]
    return seconds

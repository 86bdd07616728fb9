"""Every documented call of every provider, signed as the provider signs it, through a real gateway
to every service: each is taken, and none becomes a dead letter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from conftest import MakePaybus
from devstack.endpoints import SECRETS
from fuzz.calls import SCHEMES
from providers.corpus import Case, cases
from support import payouts
from support.banks import QUICK
from support.mobile_money import sandbox
from support.paybus import Paybus
from support.waiting import until

_PROCESSES = [
    "sandbox-providers",
    "sandbox-stripe",
    "sandbox-backend",
    "webhook-gateway",
    "webhook-gateway-worker",
    "subscription-worker",
    "provisioning-worker",
    "payouts-worker",
    "bank-sync-worker",
    "orders-worker",
]


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(_PROCESSES, payout_options=payouts.OPTIONS, **QUICK) as paybus:
        yield paybus


def _send(paybus: Paybus, case: Case) -> int:
    path, secret, headers = case.provider, SECRETS.get(case.provider, ""), {}
    if case.said.get("options") == {"payouts_only": True}:
        path, secret = "fapshi/payouts", SECRETS["fapshi-payouts"]
    if case.provider == "plaid":
        headers = sandbox(paybus, "POST", "/plaid/_sign", body=case.body.decode())
    elif case.provider == "flutterwave" and case.said.get("trust") == "secret":
        headers = {"verif-hash": secret}
    elif (scheme := SCHEMES.get(case.provider)) is not None:
        headers = {scheme.header: scheme.make(secret, case.body)}
    return paybus.call(path, case.body, headers).status_code


def test_every_documented_call_is_taken_and_none_is_a_dead_letter(paybus: Paybus) -> None:
    answers = {str(case): _send(paybus, case) for case in cases()}
    assert {name: status for name, status in answers.items() if status != 200} == {}
    until(lambda: not paybus.waiting(), what="every queue is empty")
    assert {queue: count for queue, count in paybus.dead_letters().items() if count} == {}
    expected = Counter(each["event"] for case in cases() for each in case.said["becomes"])
    journal = Counter(each["type"] for each in paybus.journal())
    assert {type_: journal[type_] for type_ in expected} == expected

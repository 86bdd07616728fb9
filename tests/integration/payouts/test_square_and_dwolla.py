"""Square's and Dwolla's webhooks, signed and sent by their stand-ins, become events once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from conftest import MakePaybus
from devstack.processes.system import CALLED
from support.mobile_money import sandbox
from support.paybus import Paybus
from support.waiting import until


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(["sandbox-providers", "webhook-gateway"]) as paybus:
        gateway = paybus.layout.url("webhook-gateway")
        urls = {name: f"{gateway}/webhooks/{path}" for name, path in CALLED.items()}
        sandbox(paybus, "PUT", "/_delivery", urls=urls, duplicate=1)
        yield paybus


def told(paybus: Paybus, id_: str) -> list[tuple[str, str]]:
    """Return types and ids of the object's events."""
    events = [each for each in paybus.journal() if each["subject"].endswith(id_)]
    return [(each["type"], each["id"]) for each in events]


@pytest.mark.parametrize(
    ("path", "status", "types"),
    [
        (
            "/_square/payments",
            "COMPLETED",
            {"payment.succeeded"},
        ),
        ("/_square/payments", "FAILED", {"payment.failed"}),
        ("/_square/payouts", "PAID", {"provider_payout.created", "provider_payout.succeeded"}),
        (
            "/_dwolla/transfers",
            "processed",
            {"provider_transfer.created", "provider_transfer.succeeded"},
        ),
        ("/_dwolla/transfers", "failed", {"provider_transfer.created", "provider_transfer.failed"}),
    ],
)
def test_what_they_say_becomes_events(
    paybus: Paybus, path: str, status: str, types: set[str]
) -> None:
    thing: dict[str, Any] = sandbox(paybus, "POST", path, amount=1500)
    sandbox(paybus, "PUT", f"{path}/{thing['id']}", status=status)
    until(lambda: len(told(paybus, thing["id"])) == 2 * len(types), what="both webhooks came twice")
    events = told(paybus, thing["id"])
    assert {type_ for type_, _ in events} == types
    assert len(set(events)) == len(types)  # duplicates have the same id

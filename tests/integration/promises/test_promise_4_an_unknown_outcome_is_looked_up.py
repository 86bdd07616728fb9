"""Promise 4: an unknown outcome is checked before the call is repeated.

These tests hold organizations, which the backend API creates, to the same rule as money.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from devstack.webhook import subscription_created
from support.organizations import end_subscription, organization_of, until_status
from support.paybus import Paybus
from support.waiting import until


@pytest.fixture
def paybus(whole_paybus: Paybus) -> Iterator[Paybus]:
    whole_paybus.backend(mode="well")
    yield whole_paybus
    whole_paybus.backend(mode="well")


@pytest.mark.parametrize("mode", ["fail_after", "hang_after"])
def test_promise_4_an_unknown_outcome_is_looked_up_before_it_is_tried_again(
    paybus: Paybus, mode: str
) -> None:
    """The backend API does the work and responds 500 or not at all: one organization, one admin."""
    paybus.backend(mode=mode)
    number = paybus.subscribe()
    until(
        lambda: [o for o in paybus.books()["organizations"] if number in o["name"]],
        what="the back end did the work",
    )
    paybus.backend(mode="well")
    integration = until_status(paybus, number, "provisioned")
    books = paybus.books()
    assert books["created"][integration["id"]] == 1
    assert len(books["users"][integration["organization_id"]]) == 1
    assert books["calls"]["GET organizations"] > 0, "it was looked up"


def test_promise_4_cancelled_after_a_creation_of_unknown_outcome_is_suspended(
    paybus: Paybus,
) -> None:
    """The backend API created it and responded 500; then the customer left."""
    paybus.backend(mode="fail_after")
    number = paybus.subscribe()
    until(
        lambda: [o for o in paybus.books()["organizations"] if number in o["name"]],
        what="it was created",
    )
    end_subscription(paybus, number)
    paybus.backend(mode="well")
    integration = until_status(paybus, number, "suspended")
    (organization,) = organization_of(paybus, integration)
    assert organization["status"] == "suspended"


def test_promise_4_resubscribed_after_a_suspension_of_unknown_outcome_is_active(
    paybus: Paybus,
) -> None:
    """The backend API suspended it and responded 500; then the customer returned."""
    number = paybus.subscribe()
    integration = until_status(paybus, number, "provisioned")
    paybus.backend(mode="fail_after")
    end_subscription(paybus, number)
    until(
        lambda: organization_of(paybus, integration)[0]["status"] == "suspended",
        what="it was suspended",
    )
    again = subscription_created(uuid4().hex)
    again["data"]["object"]["customer"] = f"cus_{number}"
    assert paybus.send(again).status_code == 200
    paybus.backend(mode="well")
    until(
        lambda: organization_of(paybus, integration)[0]["status"] == "active", what="it is active"
    )
    until_status(paybus, number, "provisioned")

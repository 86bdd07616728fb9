"""Promise 4: what may have happened outside is looked up before it is done again.

No money is sent yet; the organizations that the back end creates are held to the same rule.
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
    """The back end does the work and answers 500, or never: still one organization, one admin."""
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
    """The back end created it and answered 500; then the customer left."""
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
    """The back end suspended it and answered 500; then the customer came back."""
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

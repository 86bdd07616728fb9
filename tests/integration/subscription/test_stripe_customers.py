"""A customer's contact data are those that Stripe has now, in whatever order it reports them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from conftest import MakePaybus
from support.paybus import Paybus
from support.stripe_events import stripe_event
from support.waiting import until

_PROCESSES = ["webhook-gateway", "subscription-worker", "subscription-api"]
_BEGUN = 1_790_000_000


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(_PROCESSES) as paybus:
        yield paybus


Report = tuple[str, int, dict[str, Any], dict[str, Any]]
"""Type, seconds, object and previous attributes."""


def _story(number: str) -> list[Report]:
    """Return reports: an address that is corrected
    between the finalization of an invoice and its payment, and before a renewal."""
    customer = {"id": f"cus_{number}", "object": "customer"}
    subscription = {
        "id": f"sub_{number}",
        "customer": customer["id"],
        "status": "active",
        "created": _BEGUN + 1,
        "metadata": {"email": "typed@example.com", "name": "Typed"},
    }
    invoice = {
        "id": f"in_{number}",
        "customer": customer["id"],
        "customer_email": "old@example.com",
        "customer_name": "Old",
        "status_transitions": {"finalized_at": _BEGUN + 2},
        "amount_paid": 1500,
        "currency": "eur",
    }
    new = customer | {"email": "new@example.com", "name": "New"}
    old = customer | {"email": "old@example.com", "name": "Old"}
    return [
        ("customer.created", 0, old, {}),
        ("customer.subscription.created", 1, subscription, {}),
        ("invoice.finalized", 2, invoice, {}),
        ("customer.updated", 50, new, {"email": old["email"], "name": old["name"]}),
        ("invoice.paid", 90, invoice, {}),
        ("customer.subscription.updated", 99, subscription, {"latest_invoice": "in_1"}),
    ]


def _send(paybus: Paybus, story: list[Report]) -> None:
    for kind, at, snapshot, previous in story:
        event = stripe_event(kind, snapshot, created=_BEGUN + at, previous=previous)
        assert paybus.send(event).status_code == 200


def _customer(paybus: Paybus, number: str) -> dict[str, Any]:
    path = f"/v1/customers?provider_customer_id=cus_{number}"
    items = paybus.api("GET", "subscription", path).json()["items"]
    return items[0] if items else {}


def _until_taken(paybus: Paybus) -> None:
    until(lambda: paybus.depths()["subscription.billing"] == 0, what="all of it is taken")


@pytest.mark.parametrize("arrival", ["012345", "543210", "352140", "401235"])
def test_an_address_that_was_corrected_stays(paybus: Paybus, arrival: str) -> None:
    number = uuid4().hex[:10]
    story = _story(number)
    _send(paybus, [story[int(place)] for place in arrival])
    _until_taken(paybus)
    until(lambda: _customer(paybus, number).get("email") == "new@example.com", what="it is new")
    assert _customer(paybus, number)["name"] == "New"


def test_metadata_that_was_changed_is_newer_than_the_customer(paybus: Paybus) -> None:
    number = uuid4().hex[:10]
    kind, _, snapshot, _ = _story(number)[-1]
    renamed = snapshot | {"metadata": {"email": "moved@example.com"}}
    last = (kind, 120, renamed, {"metadata": snapshot["metadata"]})
    _send(paybus, [last, *_story(number)])
    _until_taken(paybus)
    until(lambda: _customer(paybus, number).get("email") == "moved@example.com", what="it moved")


@pytest.mark.parametrize("late", [False, True], ids=["in order", "the deletion comes first"])
def test_a_customer_whom_stripe_deleted_has_no_contact_data(paybus: Paybus, late: bool) -> None:
    """https://docs.stripe.com/api/customers/delete: it also cancels the subscriptions."""
    number = uuid4().hex[:10]
    story = _story(number)
    ended = story[1][2] | {"status": "canceled"}
    deletion: list[Report] = [
        ("customer.subscription.deleted", 200, ended, {}),
        ("customer.deleted", 200, story[3][2], {}),
    ]
    paybus.tap("subscriptions", "customer.changed")
    _send(paybus, [*deletion, *story] if late else [*story, *deletion])
    until(lambda: _customer(paybus, number).get("deleted_at"), what="it is deleted")
    _until_taken(paybus)
    assert _customer(paybus, number)["email"] is None
    assert _customer(paybus, number)["name"] is None
    mine = [
        each["data"]["contact"]["email"]
        for each in paybus.tapped()
        if each["subject"] == _customer(paybus, number)["id"]
    ]
    assert mine[-1] is None


def test_a_late_invoice_does_not_bring_back_what_a_deletion_erased(paybus: Paybus) -> None:
    """Its contact data is that of its finalization; without that date it seems to be new."""
    number = uuid4().hex[:10]
    story = _story(number)
    _send(paybus, [*story, ("customer.deleted", 200, story[3][2], {})])
    until(lambda: _customer(paybus, number).get("deleted_at"), what="it is deleted")
    invoice = {"id": f"in_{number}_late", "object": "invoice", "customer": f"cus_{number}",
               "customer_email": "late@example.com", "amount_paid": 500, "currency": "eur",
               "status_transitions": {}}  # fmt: skip
    _send(paybus, [("invoice.paid", 300, invoice, {})])
    _until_taken(paybus)
    assert _customer(paybus, number)["email"] is None


def test_an_address_that_was_removed_is_gone(paybus: Paybus) -> None:
    number = uuid4().hex[:10]
    story = _story(number)
    customer = story[3][2] | {"email": None}
    _send(paybus, [*story, ("customer.updated", 200, customer, {"email": "new@example.com"})])
    until(lambda: _customer(paybus, number).get("email", "") is None, what="it is gone")
    assert _customer(paybus, number)["name"] == "New"


def test_an_update_of_the_same_second_does_not_survive_the_deletion(paybus: Paybus) -> None:
    number = uuid4().hex[:10]
    story = _story(number)
    kind, _, customer, previous = story[3]
    update: Report = (kind, 200, customer, previous)
    deletion: Report = ("customer.deleted", 200, customer, {})
    for both in ([update, deletion], [deletion, update], [update, deletion, update]):
        _send(paybus, [*story, *both])
        _until_taken(paybus)
        until(lambda: _customer(paybus, number).get("deleted_at"), what="it is deleted")
        assert _customer(paybus, number)["email"] is None

"""Every payment at Stripe is listed once, whether Paybus started it or not, with what was refunded
and disputed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from conftest import MakePaybus
from subscription.models import Reversal, row_id
from support.paybus import Paybus
from support.stripe_events import stripe_event
from support.waiting import until

_PROCESSES = ["webhook-gateway", "subscription-worker", "subscription-api"]
_BEGUN = 1_790_000_000


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(_PROCESSES) as paybus:
        yield paybus


class Account:
    """What Stripe's account reports about one payment of 50 euros: `pi`, `ch`, and so on are the
    ids of its objects."""

    def __init__(self, paybus: Paybus, customer: str | None = None) -> None:
        self._paybus = paybus
        self.name = uuid4().hex[:10]
        self.customer = customer

    def id(self, prefix: str) -> str:
        return f"{prefix}_{self.name}"

    def session(self, **changes: Any) -> dict[str, Any]:
        return {
            "id": self.id("cs"),
            "object": "checkout.session",
            "mode": "payment",
            "payment_status": "paid",
            "payment_intent": self.id("pi"),
            "amount_total": 5000,
            "currency": "eur",
            "customer": self.customer,
        } | changes

    def intent(self, **changes: Any) -> dict[str, Any]:
        return {
            "id": self.id("pi"),
            "object": "payment_intent",
            "amount": 5000,
            "amount_received": 5000,
            "currency": "eur",
            "customer": self.customer,
            "latest_charge": self.id("ch"),
        } | changes

    def charge(self, **changes: Any) -> dict[str, Any]:
        return {
            "id": self.id("ch"),
            "object": "charge",
            "amount": 5000,
            "amount_captured": 5000,
            "amount_refunded": 0,
            "captured": True,
            "currency": "eur",
            "customer": self.customer,
            "payment_intent": self.id("pi"),
        } | changes

    def invoice(self, **changes: Any) -> dict[str, Any]:
        return {
            "id": self.id("in"),
            "object": "invoice",
            "status": "paid",
            "amount_due": 5000,
            "amount_paid": 5000,
            "currency": "eur",
            "customer": self.id("cus"),
        } | changes

    def refund(self, number: int, amount: int, **changes: Any) -> dict[str, Any]:
        return {
            "id": f"re_{number}_{self.name}",
            "object": "refund",
            "amount": amount,
            "currency": "eur",
            "charge": self.id("ch"),
            "payment_intent": self.id("pi"),
        } | changes

    def send(self, kind: str, snapshot: dict[str, Any], *, at: int = 0) -> None:
        answer = self._paybus.send(stripe_event(kind, snapshot, created=_BEGUN + at))
        assert answer.status_code == 200, answer.text

    def payments(self) -> list[dict[str, Any]]:
        """Return the payments that are listed, of the account's newest ones."""
        listed = self._paybus.api("GET", "subscription", "/v1/payments?limit=200").json()["items"]
        mine = [each for each in listed if self.name in each["provider_payment_id"]]
        return sorted(mine, key=lambda each: each["provider_payment_id"])

    def until_payment(self, **expected: Any) -> dict[str, Any]:
        def found() -> bool:
            return [{name: each[name] for name in expected} for each in self.payments()] == [
                expected
            ]

        try:
            until(found, what=f"one payment with {expected}")
        except AssertionError as error:
            raise AssertionError(f"there are {self.payments()}") from error
        return self.payments()[0]

    def until_reversals(self, field: str, **by_kind: Any) -> None:
        """Wait until the only payment has these refunds and disputes, whatever is reported last."""

        def shown() -> bool:
            found = [each for payment in self.payments() for each in payment["reversals"]]
            return {each["kind"]: each[field] for each in found} == by_kind

        until(shown, what=f"the payment's refunds and disputes are {by_kind}")


_PARTS = ["session", "intent", "charge"]


@pytest.mark.parametrize("parts", [*itertools.permutations(_PARTS), ["session"], ["intent"]])
@pytest.mark.parametrize("guest", [False, True], ids=["customer", "guest"])
def test_a_single_payment_is_listed_once_whatever_reports_it(
    paybus: Paybus, parts: list[str], guest: bool
) -> None:
    account = Account(paybus, None if guest else f"cus_{uuid4().hex[:8]}")
    for at, each in enumerate(parts):
        kinds = {
            "session": ("checkout.session.completed", account.session()),
            "intent": ("payment_intent.succeeded", account.intent()),
            "charge": ("charge.succeeded", account.charge()),
        }
        account.send(*kinds[each], at=at)
    account.send("charge.refunded", account.charge(amount_refunded=5000), at=50)
    paid = account.until_payment(
        provider_payment_id=account.id("pi"), paid=True, amount=5000, amount_refunded=5000
    )
    assert paid["currency"] == "EUR"
    assert (paid["customer_id"] is None) is guest
    assert [each["kind"] for each in paid["reversals"]] == ["refund"]


def test_a_charge_without_an_intent_is_a_payment_and_an_authorization_is_none(
    paybus: Paybus,
) -> None:
    account = Account(paybus)
    reserved = account.charge(payment_intent=None, captured=False, amount_captured=0)
    account.send("charge.succeeded", reserved)
    part = account.charge(payment_intent=None, amount_captured=4000)
    account.send("charge.captured", part, at=1)
    account.until_payment(provider_payment_id=account.id("ch"), paid=True, amount=4000)


def test_a_payment_that_failed_and_was_tried_again_is_paid(paybus: Paybus) -> None:
    account = Account(paybus)
    declined = {"last_payment_error": {"message": "Your card was declined."}}
    account.send("payment_intent.payment_failed", account.intent(amount_received=0, **declined))
    account.until_payment(paid=False, amount=5000, reason="Your card was declined.")
    account.send("payment_intent.succeeded", account.intent(), at=9)
    account.until_payment(paid=True, amount=5000, reason=None)


_REPORTS: dict[str, Callable[[Account], tuple[str, dict[str, Any]]]] = {
    "invoice": lambda account: ("invoice.paid", account.invoice()),
    "intent": lambda account: ("payment_intent.succeeded", account.intent()),
    "link": lambda account: (
        "invoice_payment.paid",
        {
            "id": account.id("inpay"),
            "invoice": account.id("in"),
            "payment": {"type": "payment_intent", "payment_intent": account.id("pi")},
        },
    ),
}


@pytest.mark.parametrize("order", list(itertools.permutations(_REPORTS)))
def test_an_invoice_s_payment_intent_is_no_second_payment(
    paybus: Paybus, order: tuple[str, ...]
) -> None:
    account = Account(paybus)
    for each in order:
        account.send(*_REPORTS[each](account))
    account.send("charge.refunded", account.charge(amount_refunded=700), at=5)
    account.until_payment(
        provider_payment_id=account.id("in"), paid=True, amount=5000, amount_refunded=700
    )


def test_before_2025_the_invoice_itself_names_its_payment_intent(paybus: Paybus) -> None:
    account = Account(paybus)
    account.send("payment_intent.succeeded", account.intent())
    account.send("charge.succeeded", account.charge(invoice=account.id("in")))
    named = account.invoice(payment_intent=account.id("pi"), charge=account.id("ch"))
    account.send("invoice.paid", named)
    account.until_payment(provider_payment_id=account.id("in"), amount=5000)


@pytest.mark.parametrize(
    ("fields", "amount"),
    [
        ({"paid_out_of_band": True, "amount_paid": 0}, 5000),
        ({"amount_paid_off_stripe": 5000, "amount_paid": 0}, 5000),
        ({"amount_paid_off_stripe": 2000, "amount_paid": 3000}, 5000),
        ({"amount_due": 0, "amount_paid": 0, "paid_out_of_band": False}, 0),
    ],
)
def test_an_invoice_paid_outside_of_stripe_has_its_amount(
    paybus: Paybus, fields: dict[str, Any], amount: int
) -> None:
    account = Account(paybus)
    account.send("invoice.paid", account.invoice(**fields))
    account.until_payment(provider_payment_id=account.id("in"), paid=True, amount=amount)


def _refund_story(account: Account) -> list[tuple[str, dict[str, Any], int]]:
    failed = account.refund(1, 5000, status="failed", failure_reason="expired_or_canceled_card")
    of_old = {key: value for key, value in failed.items() if key != "payment_intent"}
    return [
        ("charge.succeeded", account.charge(), 0),
        ("charge.refunded", account.charge(amount_refunded=5000), 50),
        ("refund.failed", failed, 4000),
        ("charge.refund.updated", of_old, 4000),
        ("charge.refunded", account.charge(amount_refunded=500), 5000),
        # Its metadata was changed since: it did not fail again.
        ("refund.updated", failed, 6000),
    ]


@pytest.mark.parametrize("arrival", [[0, 1, 2, 3], [2, 1, 0, 3], [3, 2, 1, 0], [1, 0, 3, 2]])
def test_a_refund_that_failed_is_not_counted(paybus: Paybus, arrival: list[int]) -> None:
    """https://docs.stripe.com/refunds, failed refunds: the money is back in the account."""
    account = Account(paybus)
    for number in arrival:
        kind, snapshot, at = _refund_story(account)[number]
        account.send(kind, snapshot, at=at)
    account.until_reversals("amount", refund=0, refund_failed=5000)
    account.until_payment(paid=True, amount_refunded=0)


@pytest.mark.parametrize("late", range(6))
def test_the_next_refund_s_total_lacks_the_one_that_failed(paybus: Paybus, late: int) -> None:
    account = Account(paybus)
    story = _refund_story(account)
    for kind, snapshot, at in [*story[:late], *story[late + 1 :], story[late]]:
        account.send(kind, snapshot, at=at)
    account.until_payment(paid=True, amount_refunded=500)
    until(lambda: len(account.payments()[0]["reversals"]) == 2, what="both are listed")


def test_a_refund_that_failed_before_its_charge_s_total_is_known_is_no_part_of_an_older_one(
    paybus: Paybus,
) -> None:
    """The second refund's `charge.refunded` is late, or lost."""
    account = Account(paybus)
    account.send("charge.succeeded", account.charge())
    account.send("charge.refunded", account.charge(amount_refunded=3000), at=10)
    failed = account.refund(2, 2000, status="failed", created=_BEGUN + 50)
    account.send("refund.failed", failed, at=90)
    account.until_payment(paid=True, amount_refunded=3000)
    until(lambda: len(account.payments()[0]["reversals"]) == 2, what="the failed one is listed")
    assert account.payments()[0]["amount_refunded"] == 3000
    account.send("charge.refunded", account.charge(amount_refunded=5000), at=50)
    until(lambda: account.payments()[0]["amount_refunded"] == 3000, what="still so")


def test_a_released_authorization_and_an_uncaptured_rest_are_no_refunds(paybus: Paybus) -> None:
    account = Account(paybus)
    account.send("payment_intent.succeeded", account.intent(amount_received=4000))
    part = account.charge(amount_captured=4000, amount_refunded=1500)
    account.send("charge.refunded", part, at=5)
    account.until_payment(paid=True, amount=4000, amount_refunded=500)
    released = Account(paybus)
    canceled = released.intent(amount_received=0, cancellation_reason="requested_by_customer")
    released.send("payment_intent.canceled", canceled)
    void = released.charge(captured=False, amount_captured=0, amount_refunded=5000)
    released.send("charge.refunded", void, at=5)
    released.until_payment(paid=False, amount_refunded=0, reversals=[])


def test_an_invoice_without_a_customer_has_refunds_too(paybus: Paybus) -> None:
    """`customer_account` may stand for the customer: its subscription is not known."""
    account = Account(paybus)
    parent = {"subscription_details": {"subscription": account.id("sub")}}
    account.send("invoice.paid", account.invoice(customer=None, parent=parent))
    account.send(*_REPORTS["link"](account))
    account.send("charge.refunded", account.charge(amount_refunded=700), at=5)
    account.until_payment(
        provider_payment_id=account.id("in"), customer_id=None, amount_refunded=700
    )
    assert paybus.dead_letters() == {}


def test_rows_of_the_version_before_are_read_and_go_on(paybus: Paybus) -> None:
    """It continues to write them beside this version, without the columns that are new."""
    account = Account(paybus)
    account.send("charge.succeeded", account.charge())
    paid = account.until_payment(paid=True)
    paybus.sql(
        "subscription",
        "INSERT INTO reversals "
        '(id, tenant, provider, kind, amount, currency, "references", reported_at) '
        "VALUES (%s, 'default', 'stripe', 'refund', 700, 'EUR', %s, to_timestamp(%s))",
        row_id(Reversal, "default", "stripe", account.id("ch")),
        [account.id("ch"), account.id("pi")],
        _BEGUN + 10,
    )
    assert account.until_payment(id=paid["id"], amount_refunded=700)
    account.send("charge.refunded", account.charge(amount_refunded=900), at=20)
    account.until_payment(id=paid["id"], amount_refunded=900)


def test_what_the_version_before_adds_to_a_refund_is_not_forgotten(paybus: Paybus) -> None:
    """It knows only `amount`, and raises it."""
    account = Account(paybus)
    account.send("charge.succeeded", account.charge())
    account.send("charge.refunded", account.charge(amount_refunded=1000), at=10)
    account.until_payment(paid=True, amount_refunded=1000)
    paybus.sql(
        "subscription",
        'UPDATE reversals SET amount = 3000 WHERE "references" && ARRAY[%s]',
        account.id("ch"),
    )
    failed = account.refund(2, 500, status="failed", created=_BEGUN + 5)
    account.send("refund.failed", failed, at=90)
    account.until_reversals("amount", refund=2500, refund_failed=500)
    account.send("charge.refunded", account.charge(amount_refunded=800), at=100)
    account.until_reversals("amount", refund=800, refund_failed=500)


def test_of_two_reports_of_one_second_the_dispute_that_is_further_along_holds(
    paybus: Paybus,
) -> None:
    account = Account(paybus)
    account.send("payment_intent.succeeded", account.intent())
    dispute = {
        "id": account.id("du"),
        "amount": 5000,
        "currency": "eur",
        "charge": account.id("ch"),
        "payment_intent": account.id("pi"),
        "reason": "fraudulent",
    }
    account.send("charge.dispute.closed", dispute | {"status": "won"}, at=9)
    account.send("charge.dispute.created", dispute | {"status": "needs_response"}, at=1)
    account.send("charge.dispute.updated", dispute | {"status": "under_review"}, at=9)
    account.send("charge.refunded", account.charge(amount_refunded=1), at=9)
    account.until_payment(paid=True, amount_refunded=1)
    account.until_reversals("status", dispute="won", refund=None)

"""A Stripe customer's entitlement and organization: by the tenant's policy, paying customers have
both and others neither; and which account an event belongs to."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from conftest import MakePaybus
from devstack import endpoints
from devstack.webhook import signature, subscription_created
from support.paybus import Paybus
from support.stripe_events import stripe_event
from support.waiting import until

_PROCESSES = [
    "webhook-gateway",
    "subscription-worker",
    "subscription-api",
    "provisioning-worker",
    "provisioning-api",
    "sandbox-backend",
]
_DAY = 86400
_PERIOD_END = int(time.time()) + 30 * _DAY


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(_PROCESSES, RENEWALS_INTERVAL_SECONDS="1") as paybus:
        yield paybus


def change(number: str, seconds: int, *, kind: str = "updated", **changes: Any) -> dict[str, Any]:
    """Return an event of the subscription `seconds` after now; `previous` are its
    `previous_attributes`, `price` the price of its only item."""
    event = subscription_created(number)
    event["data"]["object"]["items"]["data"][0]["current_period_end"] = _PERIOD_END
    event |= {
        "id": f"evt_{uuid4().hex}",
        "type": f"customer.subscription.{kind}",
        "created": int(time.time()) + seconds,
    }
    if (previous := changes.pop("previous", None)) is not None:
        event["data"]["previous_attributes"] = previous
    if (price := changes.pop("price", None)) is not None:
        event["data"]["object"]["items"]["data"][0]["price"]["id"] = price
    event["data"]["object"].update(changes)
    return event


def items_of(price: str, number: str) -> dict[str, Any]:
    """Return the items as in `previous_attributes`: the complete array."""
    items = subscription_created(number)["data"]["object"]["items"]
    items["data"][0]["price"]["id"] = price
    items["data"][0]["current_period_end"] = _PERIOD_END
    return {"data": items["data"]}


def send(paybus: Paybus, *events: dict[str, Any]) -> None:
    for event in events:
        assert paybus.send(event).status_code == 200


def entitled(paybus: Paybus, number: str) -> bool | None:
    answer = paybus.api("GET", "subscription", f"/v1/entitlements/cus_{number}")
    return answer.json()["entitled"] if answer.is_success else None


def plans(paybus: Paybus, number: str) -> list[str]:
    answer = paybus.api("GET", "subscription", f"/v1/entitlements/cus_{number}")
    return [each["plan"] for each in answer.json()["plans"]]


def subscription(paybus: Paybus, number: str) -> dict[str, Any]:
    path = f"/v1/subscriptions?provider_subscription_id=sub_{number}"
    items = paybus.api("GET", "subscription", path).json()["items"]
    return items[0] if items else {}


def organization(paybus: Paybus, number: str) -> str | None:
    customer = subscription(paybus, number).get("customer_id")
    path = f"/v1/integrations?customer_id={customer}"
    items = paybus.api("GET", "provisioning", path).json()["items"]
    return items[0]["status"] if items else None


def until_right(paybus: Paybus, number: str, right: bool) -> None:
    until(lambda: entitled(paybus, number) is right, what=f"entitled: {right}")
    status = "provisioned" if right else "suspended"
    until(lambda: organization(paybus, number) == status, what=f"the organization is {status}")


def a_subscriber(paybus: Paybus, **options: Any) -> str:
    number = paybus.subscribe(**options)
    until_right(paybus, number, True)
    return number


@pytest.mark.parametrize(
    ("leaves", "comes_back"),
    [
        (
            [("updated", "past_due", "active"), ("updated", "unpaid", "past_due")],
            [("updated", "active", "unpaid")],
        ),
        (
            [("updated", "paused", "trialing"), ("paused", "paused", None)],
            [("updated", "active", "paused"), ("resumed", "active", None)],
        ),
        ([("paused", "paused", None)], [("resumed", "active", None)]),
    ],
    ids=["unpaid", "paused", "only the events of pauses"],
)
def test_who_does_not_pay_is_suspended_and_who_pays_again_is_resumed(
    paybus: Paybus,
    leaves: list[tuple[str, str, str | None]],
    comes_back: list[tuple[str, str, str | None]],
) -> None:
    first = "trialing" if leaves[-1][1] == "paused" else "active"
    number = a_subscriber(paybus, status=first)
    seconds = 1
    for steps, right in ((leaves, False), (comes_back, True)):
        for kind, status, before in steps:
            previous = {"status": before} if before else None
            send(paybus, change(number, seconds, kind=kind, status=status, previous=previous))
            seconds += 1
        until_right(paybus, number, right)
    assert subscription(paybus, number)["status"] == "active"


def test_a_status_of_its_own_is_shown(paybus: Paybus) -> None:
    number = a_subscriber(paybus)
    send(paybus, change(number, 1, status="unpaid"))
    until(lambda: subscription(paybus, number)["status"] == "unpaid", what="it is unpaid")
    assert subscription(paybus, number)["entitles"] is False


@pytest.mark.parametrize("first", ["paused", "updated"])
def test_a_pause_that_comes_alone_holds_beside_another_change_of_its_second(
    paybus: Paybus, first: str
) -> None:
    """Only the event's type states the previous status."""
    number = a_subscriber(paybus)
    paused = change(number, 1, kind="paused", status="paused", price="price_new")
    updated = change(
        number, 1, status="trialing", price="price_new", previous={"items": items_of("x", number)}
    )
    send(paybus, *([paused, updated] if first == "paused" else [updated, paused]))
    until_right(paybus, number, False)
    assert subscription(paybus, number)["status"] == "paused"
    send(paybus, change(number, 2, kind="resumed", status="active", price="price_new"))
    until_right(paybus, number, True)


def test_the_grace_of_who_is_past_due_ends_by_the_clock(paybus: Paybus) -> None:
    number = a_subscriber(paybus)
    send(paybus, change(number, 1, previous={"status": "active"}, status="past_due"))
    until(lambda: subscription(paybus, number)["status"] == "past_due", what="it is past due")
    assert entitled(paybus, number) is True
    query = "SELECT due_at FROM subscriptions WHERE provider_subscription_id = %s"
    (due,) = paybus.sql("subscription", query, f"sub_{number}")[0]
    left = due - datetime.now(UTC)
    assert timedelta(days=29) < left < timedelta(days=31)
    paybus.sql(
        "subscription",
        "UPDATE subscriptions SET due_at = now(), statuses = jsonb_build_array("
        "jsonb_build_object('at', now() - interval '31 days', 'status', 'past_due')) "
        "WHERE provider_subscription_id = %s",
        f"sub_{number}",
    )
    until_right(paybus, number, False)
    assert subscription(paybus, number)["status"] == "past_due"
    send(paybus, change(number, 9, status="active", previous={"status": "past_due"}))
    until_right(paybus, number, True)


def test_who_was_past_due_before_paybus_came_is_not_entitled_anew_by_each_update(
    paybus: Paybus,
) -> None:
    """As after a migration, or a lost webhook: no event ever reported when the status changed."""
    number = uuid4().hex[:10]
    for days in (90, 60, 31, 1):
        created = int((datetime.now(UTC) - timedelta(days=days)).timestamp())
        latest = {"latest_invoice": f"in_{days}"}
        event = change(
            number, 1, previous=latest, status="past_due", cancel_at_period_end=days == 1
        )
        send(paybus, event | {"created": created})
    until(lambda: subscription(paybus, number).get("cancel_at_period_end"), what="all are there")
    assert entitled(paybus, number) is False


def put_policy(paybus: Paybus, **policy: Any) -> Any:
    answer = paybus.api("PUT", "subscription", "/v1/entitlement-policy", json=policy, role="admin")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_tenant_s_policy_says_what_a_status_entitles_to(paybus: Paybus) -> None:
    put = partial(put_policy, paybus)
    default = paybus.api("GET", "subscription", "/v1/entitlement-policy").json()
    assert default == {
        "past_due": True,
        "past_due_grace_days": 30,
        "unpaid": False,
        "paused": False,
        "trialing": True,
        "collection_paused": True,
        "refunded": True,
        "disputed": True,
    }
    refused = paybus.api("PUT", "subscription", "/v1/entitlement-policy", json={"unpaid": True})
    assert refused.status_code == 403
    number = a_subscriber(paybus)
    send(paybus, change(number, 1, status="unpaid"))
    until_right(paybus, number, False)
    try:
        assert put(unpaid=True)["past_due_grace_days"] == 30
        until_right(paybus, number, True)
        late = a_subscriber(paybus)
        send(paybus, change(late, 1, status="past_due"))
        put(past_due_grace_days=0)
        until_right(paybus, late, False)
        put(past_due_grace_days=None)
        until_right(paybus, late, True)
    finally:
        put(**default)
    until_right(paybus, number, False)


def payment_event(number: str, kind: str, seconds: int, **snapshot: Any) -> dict[str, Any]:
    """Return an event about the subscription's invoice of 15 euros, or the charge that paid it."""
    of_invoice = {"payment_intent": f"pi_{number}", "charge": f"ch_{number}", "currency": "eur"}
    if kind.startswith("invoice."):
        subscription = {"customer": f"cus_{number}", "subscription": f"sub_{number}"}
        snapshot = {"id": f"in_{number}", "amount_paid": 1500} | subscription | snapshot
    return stripe_event(kind, of_invoice | snapshot, created=int(time.time()) + seconds)


def _disputed(number: str, status: str, seconds: int) -> dict[str, Any]:
    kind = "charge.dispute.closed" if status == "won" else "charge.dispute.created"
    dispute = {"id": f"du_{number}", "amount": 1500, "reason": "fraudulent", "status": status}
    return payment_event(number, kind, seconds, **dispute)


def _refunded(number: str, amount: int, seconds: int) -> dict[str, Any]:
    charge = {"id": f"ch_{number}", "amount_refunded": amount}
    return payment_event(number, "charge.refunded", seconds, **charge)


@pytest.mark.parametrize("first", ["payment", "report"])
@pytest.mark.parametrize("field", ["refunded", "disputed"])
def test_a_tenant_may_withhold_what_was_refunded_or_is_disputed(
    paybus: Paybus, field: str, first: str
) -> None:
    number = a_subscriber(paybus)
    paid = payment_event(number, "invoice.paid", 1)
    if field == "disputed":
        report, back = _disputed(number, "needs_response", 2), _disputed(number, "won", 3)
    else:
        report, back = _refunded(number, 1500, 2), None
    send(paybus, *([paid, report] if first == "payment" else [report, paid]))
    until(lambda: subscription(paybus, number)[field], what=f"it is {field}")
    assert entitled(paybus, number) is True, "by default"
    try:
        put_policy(paybus, **{field: False})
        until_right(paybus, number, False)
        other = a_subscriber(paybus)
        send(paybus, payment_event(other, "invoice.paid", 1), _refunded(other, 700, 2))
        if back is not None:
            send(paybus, back)
        else:  # the next invoice
            renewal = {"id": f"in_2_{number}", "charge": "ch_2", "payment_intent": "pi_2"}
            send(paybus, payment_event(number, "invoice.paid", 4, **renewal))
        until_right(paybus, number, True)
        assert entitled(paybus, other) is True, "a part was refunded"
    finally:
        put_policy(paybus, **{field: True})


def test_a_tenant_may_withhold_trials_and_paused_collection(paybus: Paybus) -> None:
    paused, on_trial = a_subscriber(paybus), uuid4().hex[:10]
    change_to: dict[str, Any] = {"pause_collection": {"behavior": "void", "resumes_at": None}}
    send(paybus, change(paused, 1, previous={"pause_collection": None}, **change_to))
    until(lambda: subscription(paybus, paused)["collection_paused"], what="it is shown")
    assert entitled(paybus, paused) is True, "by default"
    try:
        put_policy(paybus, trialing=False, collection_paused=False)
        until_right(paybus, paused, False)
        # Stripe reports the trial's first invoice, of nothing, as paid.
        send(paybus, payment_event(on_trial, "invoice.paid", 0, amount_paid=0))
        trial = subscription_created(on_trial, status="trialing")
        send(paybus, trial)
        # Either event may come first, and the payment alone is no trial yet.
        until(lambda: subscription(paybus, on_trial).get("trialing"), what="the trial is known")
        assert entitled(paybus, on_trial) is False
        assert organization(paybus, on_trial) in {None, "not_needed"}
        send(paybus, change(on_trial, 3, previous={"status": "trialing"}, status="active"))
        until_right(paybus, on_trial, True)
        send(paybus, change(paused, 5, previous=change_to, pause_collection=None))
        until_right(paybus, paused, True)
    finally:
        put_policy(paybus, trialing=True, collection_paused=True)


@pytest.mark.parametrize("ids", [("evt_a", "evt_b"), ("evt_b", "evt_a")])
@pytest.mark.parametrize("swapped", [False, True], ids=["in order", "swapped"])
def test_two_changes_of_one_second_end_with_the_later_one(
    paybus: Paybus, ids: tuple[str, str], swapped: bool
) -> None:
    """`previous_attributes` order the events; neither ids nor arrival do."""
    number = a_subscriber(paybus)
    events = [
        change(number, 2, price="price_old", previous={"items": items_of("price_starter", number)}),
        change(number, 2, price="price_new", previous={"items": items_of("price_old", number)}),
    ]
    for event, id_ in zip(events, ids, strict=True):
        event |= {"id": f"{id_}_{number}", "created": events[0]["created"]}
    send(paybus, *(events[::-1] if swapped else events))
    taken = "SELECT jsonb_array_length(snapshots) FROM subscriptions "
    taken += "WHERE provider_subscription_id = %s"
    until(
        lambda: paybus.sql("subscription", taken, f"sub_{number}") == [(3,)],
        what="both are here, beside the first one",
    )
    ends = "SELECT p.provider_plan_id FROM subscriptions s JOIN plans p ON p.id = s.plan_id "
    ends += "WHERE provider_subscription_id = %s"
    assert paybus.sql("subscription", ends, f"sub_{number}") == [("price_new",)]
    until(lambda: plans(paybus, number) == ["price_new"], what="the entitlement follows")


def test_of_two_that_say_nothing_of_their_order_the_one_that_came_last_holds(
    paybus: Paybus,
) -> None:
    for first, second in (("evt_a", "evt_b"), ("evt_b", "evt_a")):
        number = a_subscriber(paybus)
        old, new = change(number, 2, price="price_old"), change(number, 2, price="price_new")
        old |= {"id": f"{first}_{number}"}
        new |= {"id": f"{second}_{number}", "created": old["created"]}
        send(paybus, old)
        until(lambda: plans(paybus, number) == ["price_old"], what="the first is here")
        send(paybus, new)
        until(lambda: plans(paybus, number) == ["price_new"], what="the second holds")


def test_an_end_that_is_decided_shows_whatever_field_says_it(paybus: Paybus) -> None:
    number = a_subscriber(paybus)
    ends = int(time.time()) + 10 * _DAY
    send(paybus, change(number, 1, cancel_at=ends, previous={"cancel_at": None}))

    def plan() -> dict[str, Any]:
        answer = paybus.api("GET", "subscription", f"/v1/entitlements/cus_{number}")
        found: dict[str, Any] = answer.json()["plans"][0]
        return found

    until(lambda: plan()["ends"], what="it ends")
    assert datetime.fromisoformat(plan()["until"]).timestamp() == ends
    send(paybus, change(number, 2, cancel_at=None, previous={"cancel_at": ends}))
    until(lambda: not plan()["ends"], what="it goes on")


_STRANGE = [
    ({"livemode": True}, "mode"),
    ({"account": "acct_seller"}, "account"),
    ({"account": "acct_seller", "livemode": True}, "mode"),
]


@pytest.mark.parametrize(("whose", "kind"), _STRANGE)
def test_what_is_of_another_account_or_mode_has_no_effect_and_is_kept(
    paybus: Paybus, whose: dict[str, Any], kind: str
) -> None:
    """The endpoint serves its own account, in test mode, because its key is a test key."""
    number = uuid4().hex[:10]
    paybus.tap("payments", "provider.stripe.#")
    counted = {"provider": "stripe", "kind": kind}
    metric = "paybus_webhooks_not_served_total"
    before = paybus.metric("webhook-gateway", metric, **counted)
    send(paybus, subscription_created(number) | whose)
    assert paybus.metric("webhook-gateway", metric, **counted) == before + 1
    kept = [each for each in paybus.tapped() if each["id"] == f"evt_{number}"]
    assert [each["type"] for each in kept] == ["provider.stripe.customer.subscription.created"]
    assert "does not serve" in kept[0]["data"]["not_served"]
    assert kept[0]["data"]["body"].items() >= whose.items()
    other = a_subscriber(paybus)
    assert entitled(paybus, other)
    assert entitled(paybus, number) is None


def test_an_endpoint_says_which_accounts_and_mode_it_serves(make_paybus: MakePaybus) -> None:
    with make_paybus() as paybus:
        secret = "whsec_of_a_live_one"
        tables: list[dict[str, Any]] = [
            {"provider": "stripe", "tenant": "default", "secrets": [secret]},
            {
                "provider": "stripe",
                "name": "sellers",
                "tenant": "sellers",
                "secrets": [secret],
                "options": {"accounts": ["acct_seller"]},
            },
        ]
        endpoints.write(paybus.layout.endpoints, tables)
        paybus.start("webhook-gateway")
        paybus.tap("subscriptions", "provider_subscription.*")

        def taken(path: str, **whose: Any) -> bool:
            number = uuid4().hex[:10]
            body = subscription_created(number) | {"livemode": True} | whose
            raw = json.dumps(body).encode()
            headers = {"Stripe-Signature": signature(raw, secret)}
            assert paybus.call(path, raw, headers).status_code == 200
            return f"evt_{number}" in {each["id"] for each in paybus.tapped()}

        assert taken("stripe")  # without a key: live
        assert not taken("stripe", livemode=False)
        assert not taken("stripe", account="acct_seller")
        assert taken("stripe/sellers", account="acct_seller")
        assert not taken("stripe/sellers", account="acct_other")

"""Each documented call becomes what it means; none of them is a dead letter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stripe as sdk
from square.types.dispute import Dispute
from square.types.payment import Payment
from square.types.payout import Payout

from providers.corpus import Case, cases, documented_types
from support.described import Path, Shape
from support.described.event_types import plaid_types, square_types, stripe_types
from support.described.json_schema import of_model
from support.described.stripe_types import shape
from support.providers import a_provider
from webhook_gateway.providers.base import Authentication, UntranslatableWebhook
from webhook_gateway.providers.registry import PROVIDERS

_MEANINGFUL = [each for each in cases() if each.group != "journaled"]


_AMOUNTS = ("amount", "amount_refunded")


def _translated(case: Case, webhook: Any = None) -> list[dict[str, Any]]:
    """Return the events that the case's call becomes, or that another `webhook` does."""
    provider = a_provider(case.provider, "a secret", **case.options)
    proof = Authentication(case.trust, occasion="a token" if case.provider == "plaid" else None)
    body = case.body if webhook is None else Case(case.provider, "", {"webhook": webhook}).body
    return [event.model_dump(mode="json") for event in provider.translate(body, proof)]


def _deviations(expected: Any, value: Any, at: str = "") -> list[str]:
    """Return where `value` differs; fields that are not expected may have any value."""
    if isinstance(expected, dict) and isinstance(value, dict):
        found = [_deviations(each, value.get(key), f"{at}.{key}") for key, each in expected.items()]
        return [fault for faults in found for fault in faults]
    if isinstance(expected, list) and isinstance(value, list) and len(expected) == len(value):
        found = [_deviations(a, b, f"{at}[]") for a, b in zip(expected, value, strict=True)]
        return [fault for faults in found for fault in faults]
    return [] if expected == value else [f"{at or 'it'} is {value!r}, not {expected!r}"]


@pytest.mark.parametrize("case", cases(), ids=str)
def test_a_documented_call_becomes_what_it_means(case: Case) -> None:
    events = _translated(case)
    expected = [dict(each) for each in case.said["becomes"]]
    assert [each["type"] for each in events] == [each.pop("event") for each in expected]
    for event, fields in zip(events, expected, strict=True):
        assert _deviations(fields, event["data"]) == []
        stated = {name for name in _AMOUNTS if event["data"].get(name) is not None}
        assert not stated or stated & fields.keys(), "the case does not say how much it is"


def test_every_provider_has_at_least_one_case_of_every_documented_type() -> None:
    documented = documented_types()
    assert documented.keys() == PROVIDERS.keys()
    for provider, of_provider in documented.items():
        there = {each.said["type"] for each in cases() if each.provider == provider}
        assert {*of_provider["types"]} - there == set(), provider
    assert len(cases()) >= 300


@pytest.mark.parametrize(
    ("provider", "of_sdk"),
    [("stripe", stripe_types), ("square", square_types), ("plaid", plaid_types)],
)
def test_the_documented_types_are_those_of_the_description(
    provider: str, of_sdk: Callable[[], set[str]]
) -> None:
    assert {*documented_types()[provider]["types"]} == of_sdk()


def test_no_two_cases_have_the_same_name_or_event() -> None:
    names = [str(each) for each in cases()]
    assert sorted({*names}) == sorted(names)


@pytest.mark.parametrize(
    ("provider", "webhook"),
    [
        ("stripe", {"id": "evt_1", "type": "moon.landed", "created": 1, "data": {"object": {}}}),
        ("square", {"type": "moon.landed", "event_id": "e", "created_at": "2026-11-28T10:00:00Z",
                    "data": {"type": "moon", "id": "m"}}),
        ("plaid", {"webhook_type": "MOON", "webhook_code": "LANDED"}),
        ("dwolla", {"id": "e", "topic": "moon_landed", "created": "2026-11-28T10:00:00Z"}),
        ("flutterwave", {"type": "moon.landed", "data": {}}),
    ],
)  # fmt: skip
def test_an_authentic_call_of_an_unknown_type_is_journaled(
    provider: str, webhook: dict[str, Any]
) -> None:
    case = Case(provider, "", {"type": "", "webhook": webhook})
    (event,) = _translated(case)
    assert event["type"].startswith(f"provider.{provider}.")
    assert event["data"]["body"] == webhook


@pytest.mark.parametrize(
    ("provider", "webhook", "supported"),
    [
        # The API that some countries' operators offer: developers.mtn.com, Payments V1.
        ("mtn-momo", {"statusCode": "0000", "sequenceNo": "1", "data": {"approvalId": "a"}},
         "Collection API v1_0"),
        ("mtn-momo", {"externalId": "an-order", "status": "SUCCESSFUL"}, "Collection API v1_0"),
        # Orange Cameroon's Core APIs: developer.orange.com/apis/omcoreapis-cm
        ("orange-money", {"payToken": "MP2611", "status": "SUCCESSFULL"}, "Web Payment API"),
    ],
)  # fmt: skip
def test_a_call_of_another_generation_of_an_api_is_refused_with_the_one_that_is_supported(
    provider: str, webhook: dict[str, Any], supported: str
) -> None:
    case = Case(provider, "", {"type": "", "webhook": webhook})
    with pytest.raises(UntranslatableWebhook, match=supported):
        _translated(case)


_STATUSES = [
    ("square", "payment.updated", ("data", "object", "payment", "status"), "provider.square."),
    ("square", "dispute.created", ("data", "object", "dispute", "state"), "payment.disputed"),
    ("square", "payout.sent", ("data", "object", "payout", "status"), "provider.square."),
    ("flutterwave", "charge.completed", ("data", "status"), "payment.notification_received"),
    ("flutterwave", "transfer.disburse", ("data", "status"), "provider.flutterwave."),
    ("fapshi", "PENDING", ("status",), "payment.notification_received"),
    ("mtn-momo", "PENDING", ("status",), "payment.notification_received"),
    ("orange-money", "PENDING", ("status",), "payment.notification_received"),
    ("plaid", "ITEM.ERROR", ("error", "error_code"), "provider_bank_item.failed"),
]


@pytest.mark.parametrize(("provider", "type_", "path", "becomes"), _STATUSES)
def test_an_unheard_of_status_makes_no_dead_letter(
    provider: str, type_: str, path: Path, becomes: str
) -> None:
    case = next(e for e in cases() if (e.provider, e.said["type"]) == (provider, type_))
    webhook = copy.deepcopy(case.webhook)
    place = webhook
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = "UNHEARD_OF"
    (event,) = _translated(case, webhook)
    assert event["type"].startswith(becomes)


_KINDS: dict[str, Any] = {
    "charge": sdk.Charge,
    "checkout.session": sdk.checkout.Session,
    "customer": sdk.Customer,
    "dispute": sdk.Dispute,
    "invoice": sdk.Invoice,
    "invoice_payment": sdk.InvoicePayment,
    "payment_intent": sdk.PaymentIntent,
    "payout": sdk.Payout,
    "refund": sdk.Refund,
    "subscription": sdk.Subscription,
    "transfer": sdk.Transfer,
}


def _mutations(described: Shape, value: Any, at: Path = ()) -> Iterator[tuple[str, Path, Any]]:
    """Yield what the description allows instead of a value: that an optional field is missing, null
    for one that may be null, and an unheard-of word of an enumeration (`_GONE` for no field)."""
    for shape_ in described.choices():
        if isinstance(value, dict) and shape_.fields is not None:
            for name, inner in shape_.fields.items():
                if name not in value:
                    continue
                if name not in shape_.required:
                    yield "is missing", (*at, name), _GONE
                for choice in inner().choices():
                    if "null" in choice.kinds:
                        yield "is null", (*at, name), None
                    if choice.words and isinstance(value[name], str) and name != "object":
                        yield "is new", (*at, name), "ZZZ" if name == "currency" else "unheard_of"
                yield from _mutations(inner(), value[name], (*at, name))
        if isinstance(value, list) and value and shape_.items is not None:
            yield from _mutations(shape_.items(), value[0], (*at, "0"))


_GONE = object()


def _changed(webhook: Any, path: Path, value: Any) -> Any:
    place = changed = copy.deepcopy(webhook)
    for name in path[:-1]:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is _GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


def _snapshot(case: Case) -> dict[str, Any]:
    """Return the object in a call of Stripe's; a thin event has none."""
    found: dict[str, Any] = case.webhook.get("data", {}).get("object", {})
    return found


_STRIPE = [
    each
    for each in _MEANINGFUL
    if each.provider == "stripe" and _snapshot(each).get("object") in _KINDS
]  # fmt: skip
_KINDS_OF_SQUARE: dict[str, Any] = {"payment": Payment, "dispute": Dispute, "payout": Payout}
_SQUARE = [
    (each, kind)
    for each in _MEANINGFUL
    if each.provider == "square"
    for kind in each.webhook["data"].get("object") or {}
    if kind in _KINDS_OF_SQUARE
]
# Paybus does not guess what a new status means: the operator replays the dead letter when it does.
_LOUD = {("status",)}
_READS_STATUS = {"provider_subscription.created", "provider_subscription.updated"}


@pytest.mark.parametrize("case", _STRIPE, ids=str)
def test_what_the_description_leaves_open_makes_no_dead_letter(case: Case) -> None:
    snapshot = case.webhook["data"]["object"]
    tried = 0
    for what, path, value in _mutations(shape(_KINDS[snapshot["object"]]), snapshot):
        loud = snapshot["object"] == "subscription" and path in _LOUD and what == "is new"
        fault = _fault(case, _changed(case.webhook, ("data", "object", *path), value))
        if loud and case.said["becomes"][0]["event"] in _READS_STATUS:
            assert fault
        else:
            assert fault is None, f"{'.'.join(path)} {what}: {fault}"
        tried += 1
    assert tried


@pytest.mark.parametrize(("case", "kind"), _SQUARE, ids=str)
def test_what_squares_description_leaves_open_makes_no_dead_letter(case: Case, kind: str) -> None:
    snapshot = case.webhook["data"]["object"][kind]
    mutations = [*_mutations(of_model(_KINDS_OF_SQUARE[kind]), snapshot)]
    assert mutations
    for what, path, value in mutations:
        fault = _fault(case, _changed(case.webhook, ("data", "object", kind, *path), value))
        assert fault is None, f"{'.'.join(path)} {what}: {fault}"


def _fault(case: Case, webhook: Any) -> str | None:
    """Return why the call would become a dead letter, or None."""
    try:
        _translated(case, webhook)
    except UntranslatableWebhook as error:
        return str(error)
    return None

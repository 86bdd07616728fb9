"""Billing against Stripe's own description, by a server generated from its OpenAPI file (`make
test-stripe-openapi` fetches one)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import HttpUrl, SecretStr

from common.clients.stripe import stripe_client
from subscription.providers.stripe_billing import StripeBilling
from subscription.schemas.billing import (
    ApplyCoupon,
    Attempt,
    Cancel,
    ChangePlan,
    CommandRequest,
    Detach,
    NewSetupIntent,
    NewSubscription,
    Resume,
    SetDefault,
)
from support.openapi_mock import Mock, serve

FILE = os.environ.get("STRIPE_OPENAPI")
PREVIEW = "/v1/invoices/create_preview"

pytestmark = pytest.mark.skipif(
    FILE is None, reason="STRIPE_OPENAPI names no copy of Stripe's OpenAPI file (stripe/openapi)"
)

OF_A_SUBSCRIPTION = "/v1/subscriptions/{subscription_exposed_id}"
OF_A_CUSTOMER = "/v1/customers/{customer}"
OF_A_METHOD = "/v1/payment_methods/{payment_method}"
VERBS: list[tuple[CommandRequest, list[str]]] = [
    (
        NewSubscription(plan_id="gold", trial_days=14, payment_method="pm_1"),
        ["GET /v1/subscriptions", "POST /v1/subscriptions"],
    ),
    (ChangePlan(plan_id="gold"), [f"GET {OF_A_SUBSCRIPTION}", f"POST {OF_A_SUBSCRIPTION}"]),
    (
        ChangePlan(plan_id="gold", when="period_end"),
        [
            f"GET {OF_A_SUBSCRIPTION}",
            "POST /v1/subscription_schedules",
            "GET /v1/subscription_schedules/{schedule}",
            "POST /v1/subscription_schedules/{schedule}",
        ],
    ),
    (Cancel(), [f"POST {OF_A_SUBSCRIPTION}"]),
    (Cancel(when="now"), [f"GET {OF_A_SUBSCRIPTION}", f"DELETE {OF_A_SUBSCRIPTION}"]),
    (Resume(), [f"GET {OF_A_SUBSCRIPTION}", f"POST {OF_A_SUBSCRIPTION}"]),
    (ApplyCoupon(coupon="half"), [f"POST {OF_A_SUBSCRIPTION}"]),
    (NewSetupIntent(), ["POST /v1/setup_intents"]),
    (SetDefault(payment_method="pm_1"), [f"POST {OF_A_CUSTOMER}"]),
    (
        Detach(payment_method="pm_1"),
        [f"GET {OF_A_METHOD}", f"POST {OF_A_METHOD}/detach"],
    ),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Mock]:
    assert FILE is not None
    # Optional fields that are always present; a cancelled subscription, and a customer with the
    # payment method.
    always = {"id": "x", "client_secret": "y"}
    with serve(Path(FILE), cancel_at_period_end=True, customer="sub_or_cus", **always) as mock:
        yield mock


@pytest.fixture
def stripe(server: Mock) -> tuple[Mock, StripeBilling]:
    server.called.clear()
    server.faults.clear()
    client = stripe_client(SecretStr("sk_test_x"), HttpUrl(server.url), timeout=60)
    return server, StripeBilling(client, ["card"])


@pytest.mark.parametrize(("verb", "calls"), VERBS, ids=lambda each: getattr(each, "kind", ""))
async def test_a_verb_is_what_stripe_describes(
    stripe: tuple[Mock, StripeBilling], verb: CommandRequest, calls: list[str]
) -> None:
    mock, billing = stripe
    await billing.do(Attempt("command-1", "sub_or_cus", verb, 1))
    assert mock.called == calls
    # Some files predate `discounts` at Stripe; mypy checks it against the SDK's types.
    assert [each for each in mock.faults if "'discounts'" not in each] == []


async def test_what_is_read_is_what_stripe_describes(stripe: tuple[Mock, StripeBilling]) -> None:
    mock, billing = stripe
    (method,) = await billing.payment_methods("cus_1")
    assert method["id"] == "x"
    (invoice,) = await billing.invoices("cus_1")
    assert invoice["id"] == "x"
    assert await billing.portal("cus_1", "https://shop.example.com/")
    if PREVIEW in mock.paths:  # for the same reason
        assert await billing.preview("sub_1", "gold", prorate=True)
    assert mock.faults == []

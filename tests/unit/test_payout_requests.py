"""Requests to providers match their public descriptions and official SDKs.

The schemas in payout_requests.json are taken from those descriptions, with the source of each. mypy
checks the requests against the SDKs' types; Stripe's parameters are also checked here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe.params import PayoutCreateParams, TransferCreateParams

from payouts.providers import dwolla, fapshi, stripe
from payouts.providers.base import PayoutRequest

SHAPES: Mapping[str, Any] = json.loads((Path(__file__).parent / "payout_requests.json").read_text())


def fits(shape: str, body: Mapping[str, Any]) -> None:
    jsonschema_rs.validator_for(SHAPES[shape]["schema"]).validate(body)


def orders(currency: str, details: Any) -> st.SearchStrategy[PayoutRequest]:
    return st.builds(
        PayoutRequest,
        id=st.uuids().map(str),
        recipient_id=st.uuids().map(str),
        amount=st.integers(100, 2**53 - 1),
        currency=st.just(currency),
        details=details,
        description=st.none() | st.text(max_size=140),
    )


CONNECTED = st.builds(stripe.Details, account=st.just("acct_1Abc"))
FUNDING = st.uuids().map(lambda id_: dwolla.Details(funding_source=str(id_)))
PHONES = st.builds(
    fapshi.Details,
    phone=st.integers(0, 10**8 - 1).map(lambda n: f"6{n:08}"),
    medium=st.sampled_from([None, "mobile money", "orange money"]),
)


@given(orders("USD", CONNECTED))
def test_a_stripe_transfer(order: PayoutRequest) -> None:
    params = stripe.transfer_params(order)
    fits("stripe.transfer", params)
    assert params.keys() <= TransferCreateParams.__annotations__.keys()
    assert params["transfer_group"] == order.id  # by which status checks find it


@given(orders("EUR", CONNECTED))
def test_a_stripe_payout(order: PayoutRequest) -> None:
    params = stripe.payout_params(order)
    fits("stripe.payout", params)
    assert params.keys() <= PayoutCreateParams.__annotations__.keys()
    ours = {"paybus_payout": order.id, "paybus_recipient": order.recipient_id}
    assert params["metadata"] == ours  # identifies it after a restore lost the payout


@given(orders("USD", FUNDING))
def test_a_dwolla_transfer(order: PayoutRequest) -> None:
    source = str(UUID(int=7))
    body = dwolla.transfer_body(order, "https://api.dwolla.com/", source)
    fits("dwolla.transfer", body)
    assert body["correlationId"] == order.id
    whole, _, cents = body["amount"]["value"].partition(".")
    assert int(whole) * 100 + int(cents) == order.amount
    assert body["_links"]["source"]["href"] == f"https://api.dwolla.com/funding-sources/{source}"
    again = dwolla.transfer_body(order, "https://api.dwolla.com/", source)
    assert json.dumps(body) == json.dumps(again)  # Dwolla compares the bytes


@given(orders("XAF", PHONES))
def test_a_fapshi_payout(order: PayoutRequest) -> None:
    body = fapshi.payout_body(order)
    fits("fapshi.payout", body)
    assert body["userId"] == order.id
    assert body["externalId"].split("_") == [order.id, order.recipient_id]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_says_where_it_is_from_and_can_refuse(shape: str) -> None:
    assert SHAPES[shape]["source"]
    with pytest.raises(jsonschema_rs.ValidationError):
        fits(shape, {"amount": 1.5, "key": str(uuid4())})

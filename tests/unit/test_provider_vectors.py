"""Promise 7, signatures: which calls are accepted as a provider's, and which never.

A vector is a call as the provider describes it. Square's is published with its SDKs; the others
follow the documentation named in the provider's module.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from devstack.endpoints import SECRETS
from devstack.webhook import signature
from fuzz.calls import SCHEMES, UNPROVED
from support.providers import a_provider, base64_of, hmac_sha256, verify
from webhook_gateway.providers.base import VerificationFailed
from webhook_gateway.providers.pollable import UnsignedProvider
from webhook_gateway.providers.registry import PROVIDERS

SECRET, ROTATED, FOREIGN = "secret_of_ours", "secret_before_it", "secret_of_another_tenant"


@dataclass(frozen=True)
class Vector:
    """A call of a provider. `value` computes the header `header` from secret and body;
    `covers_body` is whether it authenticates the body."""

    provider: str
    body: bytes
    header: str
    value: Callable[[str, bytes], str]
    trust: str
    covers_body: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    secret: str = SECRET

    def endpoint(self, *secrets: str) -> Any:
        return a_provider(self.provider, *(secrets or (self.secret,)), **self.options)

    def headers(self, secret: str | None = None) -> dict[str, str]:
        return {self.header: self.value(secret or self.secret, self.body)}


def _plain(secret: str, _: bytes) -> str:
    return secret


SQUARE_URL = "https://webhook.site/679a4f3a-dcfa-49ee-bac5-9d0edad886b9"
SQUARE_BODY = (
    b'{"merchant_id":"MLEFBHHSJGVHD","type":"webhooks.test_notification","event_id":'
    b'"ac3ac95b-f97d-458c-a6e6-18981597e05f","created_at":"2022-07-13T20:30:59.037339943Z",'
    b'"data":{"type":"webhooks","id":"bc368e64-01aa-407e-b46e-3231809b1129"}}'
)
SQUARE_KEY = "Ibxx_5AKakO-3qeNVR61Dw"

FAPSHI = json.dumps(
    {
        "transId": "EAbcDEfg",
        "status": "SUCCESSFUL",
        "medium": "mobile money",
        "amount": 500,
        "externalId": "checkout-1",
        "dateInitiated": "2026-11-21",
    }
).encode()
FLUTTERWAVE_V3 = json.dumps(
    {
        "event": "charge.completed",
        "data": {
            "id": 285959875,
            "tx_ref": "checkout-1",
            "flw_ref": "PeterEkene/FLW270177170",
            "amount": 100,
            "currency": "NGN",
            "status": "successful",
        },
    }
).encode()
FLUTTERWAVE_V4 = json.dumps(
    {
        "webhook_id": "wbk_1",
        "id": "wbk_W5p6ktwU0jQ8RO4By860",
        "timestamp": 1735116884019,
        "type": "charge.completed",
        "data": {"id": "chg_1", "reference": "checkout-1", "status": "succeeded", "amount": 2500},
    }
).encode()
DWOLLA = json.dumps(
    {
        "id": "03c7e14c-7f15-44a2-bcf7-83f2f7e95d50",
        "resourceId": "81BA6F36-CD7C-E511-80DB-0AA34A9B2388",
        "topic": "transfer_created",
        "timestamp": "2015-10-27T17:07:34.207Z",
        "_links": {"account": {"href": "https://api.dwolla.com/accounts/ad5f2162"}},
    }
).encode()

VECTORS = {
    "stripe": Vector(
        "stripe",
        b'{"id": "evt_1", "type": "product.created"}',
        "Stripe-Signature",
        lambda secret, body: signature(body, secret),
        "signature",
    ),
    "fapshi": Vector("fapshi", FAPSHI, "x-wh-secret", _plain, "secret", covers_body=False),
    "flutterwave v3": Vector(
        "flutterwave", FLUTTERWAVE_V3, "verif-hash", _plain, "secret", covers_body=False
    ),
    "flutterwave v4": Vector(
        "flutterwave",
        FLUTTERWAVE_V4,
        "flutterwave-signature",
        lambda secret, body: base64_of(hmac_sha256(secret, body)),
        "signature",
    ),
    "square": Vector(
        "square",
        SQUARE_BODY,
        "x-square-hmacsha256-signature",
        lambda secret, body: base64_of(hmac_sha256(secret, SQUARE_URL.encode() + body)),
        "signature",
        options={"notification_url": SQUARE_URL},
        secret=SQUARE_KEY,
    ),
    "dwolla": Vector(
        "dwolla",
        DWOLLA,
        "X-Request-Signature-SHA-256",
        lambda secret, body: hmac_sha256(secret, body).hex(),
        "signature",
    ),
}

every_vector = pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)


def test_the_signature_that_square_publishes_with_its_sdks() -> None:
    vector = VECTORS["square"]
    assert vector.headers() == {vector.header: "GF4YkrJgGBDZ9NIYbNXBnMzqb2HoL4RW/S6vkZ9/2N4="}


@every_vector
def test_a_genuine_call_is_taken_with_the_trust_that_its_scheme_deserves(vector: Vector) -> None:
    assert verify(vector.endpoint(), vector.body, vector.headers()).trust == vector.trust


@every_vector
def test_a_header_in_another_case_is_the_same_header(vector: Vector) -> None:
    headers = {name.upper(): value for name, value in vector.headers().items()}
    verify(vector.endpoint(), vector.body, headers)


@every_vector
def test_while_a_secret_is_rotated_both_are_good(vector: Vector) -> None:
    for secret in (SECRET, ROTATED):
        verify(vector.endpoint(SECRET, ROTATED), vector.body, vector.headers(secret))


@every_vector
def test_every_changed_byte_of_the_body_is_noticed(vector: Vector) -> None:
    endpoint, headers = vector.endpoint(), vector.headers()
    for position in range(len(vector.body)):
        changed = bytearray(vector.body)
        changed[position] ^= 1
        if vector.covers_body:
            _refused(endpoint, bytes(changed), headers)
        else:  # nothing proves the body, so such calls are only notifications: see below
            assert verify(endpoint, bytes(changed), headers).trust == "secret"


@every_vector
def test_every_changed_byte_of_the_header_is_noticed(vector: Vector) -> None:
    endpoint = vector.endpoint()
    value = vector.headers()[vector.header]
    for position in range(len(value)):
        changed = value[:position] + chr(ord(value[position]) ^ 1) + value[position + 1 :]
        _refused(endpoint, vector.body, {vector.header: changed})


@every_vector
def test_what_is_not_the_header_is_refused(vector: Vector) -> None:
    endpoint, good = vector.endpoint(), vector.headers()[vector.header]
    for value in (
        "",
        good[:-1],
        good + "x",
        good.swapcase(),
        good + "\xe9",
        "none",
        "\x00",
        vector.value(FOREIGN, vector.body),
        vector.value("", vector.body),
    ):
        _refused(endpoint, vector.body, {vector.header: value})
    _refused(endpoint, vector.body, {})
    _refused(endpoint, vector.body, {"authorization": good})


@every_vector
def test_a_header_that_is_sent_twice_is_refused(vector: Vector) -> None:
    good = vector.headers()[vector.header]
    for pair in ((good, good), (good, "other"), ("other", good)):
        headers = [(vector.header, each) for each in pair]
        error = _refused(vector.endpoint(), vector.body, headers)
        assert "more than once" in error


@every_vector
def test_a_refusal_shows_neither_secret_nor_body(vector: Vector) -> None:
    for headers in ({}, {vector.header: "x"}, vector.headers(FOREIGN)):
        error = _refused(vector.endpoint(), vector.body, headers)
        assert vector.secret not in error
        assert vector.body.decode() not in error


@pytest.mark.parametrize("skew", [-310, 310])
def test_stripe_s_time_stamp_may_be_neither_old_nor_of_the_future(skew: int) -> None:
    vector = VECTORS["stripe"]
    value = signature(vector.body, SECRET, int(time.time()) + skew)
    _refused(vector.endpoint(), vector.body, {vector.header: value})


@pytest.mark.parametrize("name", ["fapshi", "flutterwave v3", "flutterwave v4"])
def test_a_charge_of_mobile_money_is_only_a_hint(name: str) -> None:
    vector = VECTORS[name]
    endpoint = vector.endpoint()
    proof = verify(endpoint, vector.body, vector.headers())
    (event,) = endpoint.translate(vector.body, proof)
    assert event.type == "payment.notification_received"
    assert event.data.reference in {"EAbcDEfg", "checkout-1"}


def _refused(endpoint: Any, body: bytes, headers: Any) -> str:
    with pytest.raises(VerificationFailed) as caught:
        verify(endpoint, body, headers)
    return str(caught.value)


# Plaid's calls are signed with a key that has to be fetched: test_plaid_webhooks.py.
ELSEWHERE = {"plaid"}


def test_every_provider_has_a_vector_unless_nobody_could_make_one() -> None:
    unproved = {name for name, kind in PROVIDERS.items() if issubclass(kind, UnsignedProvider)}
    vectors = {vector.provider for vector in VECTORS.values()}
    assert vectors | unproved | ELSEWHERE == set(PROVIDERS)
    assert set(SCHEMES) | set(UNPROVED) | ELSEWHERE == set(PROVIDERS)
    assert set(SCHEMES) <= set(SECRETS), "the development stack has a secret for each"

"""Genuine and hostile calls of the gateway, with the expected treatment of each."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from devstack.endpoints import SECRETS, SQUARE_URL
from devstack.webhook import signature
from support.providers import base64_of, hmac_sha256

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Call:
    """`genuine` is whether the provider could have sent it; None if its calls carry no proof and
    can only be unverified notifications."""

    provider: str
    body: bytes
    headers: Headers
    genuine: bool | None
    method: str = "POST"
    path: str = ""

    def __str__(self) -> str:
        body = f"{self.body[:200]!r} ({len(self.body)} bytes)"
        return f"{self.method} {self.path or self.provider}: {body}, {self.headers!r}"


@dataclass(frozen=True)
class Scheme:
    """A provider's authentication scheme: a header computed from secret and body."""

    header: str
    make: Callable[[str, bytes], str]
    covers_body: bool = True


SCHEMES: Mapping[str, Scheme] = {
    "stripe": Scheme("Stripe-Signature", lambda secret, body: signature(body, secret)),
    "fapshi": Scheme("x-wh-secret", lambda secret, _: secret, covers_body=False),
    "flutterwave": Scheme(
        "flutterwave-signature", lambda secret, body: base64_of(hmac_sha256(secret, body))
    ),
    "square": Scheme(
        "x-square-hmacsha256-signature",
        lambda secret, body: base64_of(hmac_sha256(secret, SQUARE_URL.encode() + body)),
    ),
    "dwolla": Scheme(
        "X-Request-Signature-SHA-256", lambda secret, body: hmac_sha256(secret, body).hex()
    ),
}
UNPROVED = ("mtn-momo", "orange-money")

_NAMES = (
    "id type data object created status amount currency transId externalId notif_token event "
    "tx_ref topic _links event_id webhook_type webhook_code"
)
_keys = st.sampled_from(_NAMES.split()) | st.text(max_size=8)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["\x00", "\ud800", "é", "💸", "SUCCESSFUL", str(UUID(int=7))]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=6),
    max_leaves=12,
)


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()  # NaN and lone surrogates included


bodies = (
    st.binary(max_size=200)
    | _json.map(_encode)
    | st.dictionaries(_keys, _json, max_size=8).map(_encode)
    | st.integers(1, 3000).map(lambda depth: b"[" * depth + b"]" * depth)
    | st.integers(1, 3000).map(lambda depth: b'{"a":' * depth)
    | st.integers(65, 20_000).map(lambda digits: b'{"id": 1%s}' % (b"0" * digits))
    | st.just(gzip.compress(b"0" * 1_000_000))
    | st.just(b"")
)


def hostile(body: bytes, noise: str, position: int) -> list[Call]:
    """Return calls that must not pass as genuine, for every provider and kind of error."""
    calls: list[Call] = []
    for provider, scheme in SCHEMES.items():
        good = scheme.make(SECRETS[provider], body)
        other = scheme.make("another_tenant_s_secret", body)
        at = position % len(good)
        flipped = good[:at] + chr(ord(good[at]) ^ 1) + good[at + 1 :]
        wrong: list[Headers] = [
            [],
            [(scheme.header, "")],
            [(scheme.header, noise)],
            [(scheme.header, other)],
            [(scheme.header, good[:-1])],
            [(scheme.header, flipped)],
            [(scheme.header, good.swapcase())],
            [(scheme.header, good), (scheme.header, good)],
            [(scheme.header, good), (scheme.header.lower(), noise)],
            [("Authorization", good)],
            [("X-" + scheme.header, good)],
        ]
        if provider == "stripe":
            for skew in (-301, 400 + position):  # sending may take a while
                stamped = signature(body, SECRETS["stripe"], int(time.time()) + skew)
                wrong.append([(scheme.header, stamped)])
            wrong.append([(scheme.header, good.replace("v1=", "v0="))])
        calls += [Call(provider, body, headers, genuine=False) for headers in wrong]
        if scheme.covers_body:
            changed = bytearray(body or b"0")
            changed[position % len(changed)] ^= 1 + position % 255
            calls.append(Call(provider, bytes(changed), [(scheme.header, good)], genuine=False))
    for token in ("", noise, "e30.e30.", "eyJhbGciOiJub25lIn0.e30."):
        calls.append(Call("plaid", body, [("Plaid-Verification", token)], genuine=False))
    calls += [
        Call("stripe", body, [], genuine=False, path="/webhooks/stripe/nobody"),
        Call("stripe", body, [], genuine=False, path="/webhooks/"),
        Call("stripe", body, [], genuine=False, path="/webhooks//stripe"),
        Call("stripe", body, [], genuine=False, method="PATCH"),
    ]
    return calls


def proved(body: bytes) -> list[Call]:
    """Return calls with the provider's own signature, which are accepted whatever their body."""
    return [
        Call(provider, body, [(scheme.header, scheme.make(SECRETS[provider], body))], genuine=True)
        for provider, scheme in SCHEMES.items()
    ]


def unproved(body: bytes) -> list[Call]:
    return [Call(provider, body, [], genuine=None) for provider in UNPROVED]

"""Forged and invalid tokens that must be rejected."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from devstack.tokens import DevKeys


def forged(keys: DevKeys) -> Mapping[str, str]:
    """Return tokens by their fault; all of them name an administrator."""
    good = jwt.decode(keys.token("admin"), options={"verify_signature": False})
    public = keys.jwks.read_text()
    claims: dict[str, dict[str, Any]] = {
        "no role that there is": {"roles": ["nobody"]},
        "roles that are no list": {"roles": "admin"},
        "roles of all kinds": {"roles": [["admin"], {"admin": 1}, None, 4]},
        "another audience": {"aud": "other"},
        "another issuer": {"iss": "https://elsewhere.example.com/"},
        "no tenant": {"tenant": None},
        "a tenant that is no text": {"tenant": ["default"]},
        "an endless tenant": {"tenant": "t" * 10_000},
        "nobody": {"sub": ""},
        "an endless subject": {"sub": "s" * 10_000},
        "no end": {"exp": None},
        "an end in the past": {"exp": int(time.time()) - 3600},
        "an end at the end of times": {"exp": 10**30},
        "a begin in the future": {"nbf": int(time.time()) + 3600},
    }
    signed = {
        what: sign(keys, {k: v for k, v in (good | wrong).items() if v is not None})
        for what, wrong in claims.items()
    }
    unsigned = {
        "no algorithm": _by_hand(good, {"alg": "none", "kid": "development"}, lambda _: b""),
        "the public key as a secret": _by_hand(
            good,
            {"alg": "HS256", "kid": "development"},
            lambda text: hmac.digest(public.encode(), text, "sha256"),
        ),
        "an algorithm of another kind of key": _by_hand(
            good, {"alg": "RS256", "kid": "development"}, lambda _: b"x" * 256
        ),
        "a key that there is not": jwt.encode(
            good, _private(keys), algorithm="ES256", headers={"kid": "other"}
        ),
        "a signature of something else": f"{keys.token('admin').rpartition('.')[0]}.c2lnbmF0dXJl",
        "nonsense": "a.b.c",
    }
    return signed | unsigned


def sign(keys: DevKeys, claims: Mapping[str, Any]) -> str:
    return jwt.encode(
        dict(claims), _private(keys), algorithm="ES256", headers={"kid": "development"}
    )


def _private(keys: DevKeys) -> str:
    return (keys.jwks.parent / "private.pem").read_text()


def _by_hand(claims: Any, header: dict[str, str], sign: Callable[[bytes], bytes]) -> str:
    """Encode a token that the library refuses to create."""

    def encode(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    text = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
    return f"{text}.{encode(sign(text.encode()))}"

"""Signature checks shared by several providers. All comparisons take constant time."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers

from webhook_gateway.providers.base import VerificationFailed


def require_single_header(headers: Headers, name: str) -> str:
    """Return the header's value. Raises `VerificationFailed` when it is missing or sent twice."""
    values = headers.getlist(name)
    if not values or not values[0]:
        raise VerificationFailed(f"the {name} header is missing")
    if len(values) > 1:
        raise VerificationFailed(f"the {name} header was sent more than once")
    return values[0]


def hex_hmac(secret: str, *parts: bytes) -> str:
    return _hmac(secret, parts).hex()


def base64_hmac(secret: str, *parts: bytes) -> str:
    return base64.b64encode(_hmac(secret, parts)).decode()


def verify_any_secret(
    given: str, secrets: Iterable[str], expected: Callable[[str], str], *, what: str
) -> None:
    """Require that `given` is the `expected` value of one of the secrets. Raises
    `VerificationFailed`.

    All secrets are tried, so that the time taken does not reveal which one matched.
    """
    raw = given.encode("utf-8", "surrogateescape")
    matches = [hmac.compare_digest(raw, expected(secret).encode()) for secret in secrets]
    if not any(matches):
        raise VerificationFailed(f"{what} does not match")


def _hmac(secret: str, parts: Iterable[bytes]) -> bytes:
    mac = hmac.new(secret.encode(), digestmod=hashlib.sha256)
    for part in parts:
        mac.update(part)
    return mac.digest()

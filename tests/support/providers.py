"""Providers' calls, built from their documentation and not with the code that verifies them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers

from common.contracts.event import Event
from webhook_gateway.providers.base import Authentication, Provider
from webhook_gateway.providers.endpoint import Endpoint
from webhook_gateway.providers.endpoint_registry import make


def a_provider(name: str, *secrets: str, tenant: str = "default", **options: Any) -> Provider:
    return make(Endpoint(provider=name, tenant=tenant, secrets=secrets, options=options))


def verify(
    provider: Provider, body: bytes, headers: Mapping[str, str] | list[tuple[str, str]]
) -> Authentication:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
    return asyncio.run(provider.verify(Headers(raw=raw), body))


def translate(provider: Provider, body: bytes, proof: Authentication | None = None) -> Event[Any]:
    """Translate a call that yields exactly one event."""
    (event,) = provider.translate(body, proof or Authentication("signature"))
    return event


def hmac_sha256(secret: str, message: bytes) -> bytes:
    """Compute an HMAC step by step as in RFC 2104."""
    key = secret.encode()
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(each ^ 0x36 for each in key) + message).digest()
    mac = hashlib.sha256(bytes(each ^ 0x5C for each in key) + inner).digest()
    assert mac == hmac.digest(key, message, "sha256")
    return mac


def base64_of(raw: bytes) -> str:
    return base64.b64encode(raw).decode()

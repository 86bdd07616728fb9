"""The keys with which Plaid signs its webhooks.

https://plaid.com/docs/api/webhooks/webhook-verification/
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from fastapi import APIRouter, HTTPException
from pydantic import BaseModel

_BYTES = 32


class KeyRequest(BaseModel):
    client_id: str
    secret: str
    key_id: str


class SignRequest(BaseModel):
    """`headers` and `claims` override those of a genuine token."""

    body: str
    headers: dict[str, Any] = {}
    claims: dict[str, Any] = {}


class Key:
    def __init__(self) -> None:
        self.id = str(uuid4())
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.created_at = int(time.time())
        self.expired_at: int | None = None

    def jwk(self) -> dict[str, Any]:
        numbers = self.private.public_key().public_numbers()
        return {
            "alg": "ES256",
            "crv": "P-256",
            "kid": self.id,
            "kty": "EC",
            "use": "sig",
            "x": _base64(numbers.x.to_bytes(_BYTES)),
            "y": _base64(numbers.y.to_bytes(_BYTES)),
            "created_at": self.created_at,
            "expired_at": self.expired_at,
        }

    def sign(self, message: bytes) -> bytes:
        """Return the signature of RFC 7518, 3.4: the two numbers side by side, not in DER."""
        r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(_BYTES) + s.to_bytes(_BYTES)


class Keys:
    """The keys of one environment; the newest one signs."""

    def __init__(self) -> None:
        self.all = [Key()]

    def sign(
        self, body: bytes, headers: Mapping[str, Any] = {}, claims: Mapping[str, Any] = {}
    ) -> dict[str, str]:
        """Return the header of a webhook with this body."""
        key = self.all[-1]
        digest = hashlib.sha256(body).hexdigest()
        parts = (
            {"alg": "ES256", "kid": key.id, "typ": "JWT", **headers},
            {"iat": int(time.time()), "request_body_sha256": digest, **claims},
        )
        message = b".".join(_base64(json.dumps(part).encode()).encode() for part in parts)
        return {"Plaid-Verification": f"{message.decode()}.{_base64(key.sign(message))}"}


def create_router(keys: Keys, secret: str) -> APIRouter:
    router = APIRouter(prefix="/plaid")
    asked = {"count": 0}

    @router.post("/webhook_verification_key/get")
    async def get_key(request: KeyRequest) -> dict[str, Any]:
        asked["count"] += 1
        found = [key for key in keys.all if key.id == request.key_id]
        if request.secret != secret or not found:
            raise HTTPException(400, {"error_type": "INVALID_INPUT", "error_code": "INVALID_FIELD"})
        return {"key": found[0].jwk(), "request_id": uuid4().hex}

    @router.post("/_sign")
    async def sign(request: SignRequest) -> dict[str, str]:
        return keys.sign(request.body.encode(), request.headers, request.claims)

    @router.post("/_rotate")
    async def rotate(expire: bool = True) -> None:
        if expire:
            keys.all[-1].expired_at = int(time.time()) - 1
        keys.all.append(Key())

    @router.get("/_asked")
    async def how_often() -> dict[str, int]:
        return asked

    return router


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

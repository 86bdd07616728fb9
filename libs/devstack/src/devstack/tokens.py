"""Development tokens for the APIs, signed with a key of this checkout's own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

_KEY_ID = "development"
ISSUER = "paybus-development"


class DevKeys:
    """An ES256 key pair under `folder`, created at first use.

    Containers run as a user of their own and read the public file, whatever this user's umask is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._private = folder / "private.pem"
        self.jwks = folder / "jwks.json"
        folder.mkdir(parents=True, exist_ok=True)
        if not (self._private.exists() and self.jwks.exists()):
            self._make()
        self.jwks.chmod(0o644)

    def token(
        self,
        role: str,
        *,
        tenant: str = "default",
        hours: float = 12,
        subject: str | None = None,
    ) -> str:
        now = datetime.now(UTC)
        claims = {
            "sub": subject or f"dev-{role}",
            "iss": ISSUER,
            "aud": "paybus",
            "roles": [role],
            "tenant": tenant,
            "iat": now,
            "exp": now + timedelta(hours=hours),
        }
        key = self._private.read_text()
        return jwt.encode(claims, key, algorithm="ES256", headers={"kid": _KEY_ID})

    def _make(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        public: dict[str, Any] = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        jwks = {"keys": [{**public, "kid": _KEY_ID, "use": "sig", "alg": "ES256"}]}
        self._private.touch(mode=0o600)
        self._private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        self.jwks.write_text(json.dumps(jwks, indent=2))

"""API authentication and authorization: JSON Web Tokens with roles."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Annotated, Any

import jwt
from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from common.errors import Forbidden, Unauthenticated, Unavailable
from common.settings import AuthSettings

# Asymmetric only: with HS256 a public key would be accepted as a shared secret.
_ALGORITHMS = ["RS256", "ES256", "EdDSA"]
_CLOCK_SKEW_SECONDS = 30
# A token that outlives its key, its issuer and its owner's job is a mistake.
LONGEST_LIFE = timedelta(days=366)
_LONGEST_NAME = 255


class Role(IntEnum):
    """Role of a caller; each includes the permissions of the ones below it."""

    VIEWER = 1
    OPERATOR = 2
    APPROVER = 3
    ADMIN = 4


@dataclass(frozen=True)
class Caller:
    subject: str
    tenant: str
    role: Role


class Authenticator:
    """Validator of bearer tokens: signature, expiry, audience, issuer, a known role and a
    tenant."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._keys: dict[str | None, Any] = {}
        self._client: jwt.PyJWKClient | None = None
        if settings.auth_jwks_file is not None:
            document = json.loads(settings.auth_jwks_file.read_text())
            self._keys = {key.key_id: key.key for key in jwt.PyJWKSet.from_dict(document).keys}
        elif settings.auth_jwks_url is not None:
            self._client = jwt.PyJWKClient(str(settings.auth_jwks_url), timeout=5)

    async def authenticate(self, header: str | None) -> Caller:
        """Return the caller. Raise `Unauthenticated`, or `Unavailable` when the key set can't be
        fetched."""
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("send a token: `Authorization: Bearer <token>`")
        try:
            claims = jwt.decode(
                token,
                await self._key(token),
                algorithms=_ALGORITHMS,
                audience=self._settings.auth_audience,
                issuer=self._settings.auth_issuer,
                leeway=_CLOCK_SKEW_SECONDS,
                options={"require": ["exp", "sub", "aud", "iss"]},
            )
            expires = float(claims["exp"])
        except jwt.PyJWKClientConnectionError as error:
            raise Unavailable("the key set for tokens can't be fetched") from error
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the token is not valid: {error}") from error
        except (TypeError, ValueError, OverflowError) as error:  # such as a key of another type
            raise Unauthenticated("the token is not valid: it can't be read") from error
        if expires > (datetime.now(UTC) + LONGEST_LIFE).timestamp():
            raise Unauthenticated(f"the token is valid for more than {LONGEST_LIFE.days} days")
        return _caller(claims)

    async def _key(self, token: str) -> Any:
        if self._client is not None:
            # Blocking I/O, but only when the key is not cached.
            return (await asyncio.to_thread(self._client.get_signing_key_from_jwt, token)).key
        key = self._keys.get(jwt.get_unverified_header(token).get("kid"))
        if key is None:
            raise jwt.InvalidKeyError("its `kid` is not in the key set")
        return key


def _caller(claims: dict[str, Any]) -> Caller:
    named = claims.get("roles")
    known = {role.name.lower(): role for role in Role}
    words = [each for each in named if isinstance(each, str)] if isinstance(named, list) else []
    roles = [known[word] for word in words if word in known]
    if not roles:
        raise Unauthenticated(f"the token's `roles` contain none of {', '.join(known)}")
    return Caller(_name(claims, "sub"), _name(claims, "tenant"), max(roles))


def _name(claims: dict[str, Any], claim: str) -> str:
    named = claims.get(claim)
    if (
        not isinstance(named, str)
        or not 1 <= len(named) <= _LONGEST_NAME
        or not named.isprintable()
    ):
        raise Unauthenticated(
            f"the token's `{claim}` is not a text of 1 to {_LONGEST_NAME} characters"
        )
    return named


# For the OpenAPI document only: `Authenticator` reads and checks the header.
_BEARER = HTTPBearer(auto_error=False, bearerFormat="JWT")


def requires(role: Role) -> Callable[..., Awaitable[Caller]]:
    """Return a FastAPI dependency for the caller, who must have at least `role`."""

    described: object = Security(_BEARER, scopes=[role.name.lower()])

    async def check(request: Request, _: object = described) -> Caller:
        caller: Caller = request.state.caller  # set by the middleware after authentication
        if caller.role < role:
            raise Forbidden(f"this needs the role `{role.name.lower()}` or a higher one")
        return caller

    return check


Viewer = Annotated[Caller, Depends(requires(Role.VIEWER))]
Operator = Annotated[Caller, Depends(requires(Role.OPERATOR))]
Approver = Annotated[Caller, Depends(requires(Role.APPROVER))]
Admin = Annotated[Caller, Depends(requires(Role.ADMIN))]

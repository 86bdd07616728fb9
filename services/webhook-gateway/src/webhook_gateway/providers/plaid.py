"""Plaid.

https://plaid.com/docs/api/webhooks/webhook-verification/: `Plaid-Verification` is a JSON Web Token,
ES256, at most five minutes old, over the SHA-256 of the body. Its key is fetched by `kid`.

The official SDK is not used for that one call: importing its 1,500 models takes seconds, which the
gateway would spend at every start.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import httpx
import jwt
from pydantic import HttpUrl, SecretStr
from starlette.datastructures import Headers

from common.clients.json_api import bounded
from common.contracts.banking import ProviderBankItem
from common.contracts.event import Event, derived_id
from common.errors import ProviderTimeout, Unavailable
from webhook_gateway.providers import base
from webhook_gateway.providers.base import (
    Authentication,
    Object,
    Provider,
    VerificationFailed,
    digest,
)
from webhook_gateway.providers.endpoint import Endpoint
from webhook_gateway.providers.signatures import require_single_header
from webhook_gateway.providers.timestamps import parse

TOLERANCE_SECONDS: Final = 300

_GOOD_SECONDS = 3600
_REFUSED_SECONDS = 60
_MOST_REFUSED = 1000
_ASKS_PER_MINUTE = 30
_ASK_SECONDS = 5
# Plaid's key ids are UUIDs: https://plaid.com/docs/api/webhooks/webhook-verification/
_LONGEST_KEY_ID = 64
_NOT_VOUCHED = "Plaid does not vouch for the key of Plaid-Verification"

_ITEM_CODES: Mapping[str, str] = {
    "ERROR": "provider_bank_item.failed",
    "LOGIN_REPAIRED": "provider_bank_item.repaired",
    "PENDING_DISCONNECT": "provider_bank_item.expiring",
    "PENDING_EXPIRATION": "provider_bank_item.expiring",
    "USER_PERMISSION_REVOKED": "provider_bank_item.revoked",
    "USER_ACCOUNT_REVOKED": "provider_bank_item.account_revoked",
    "NEW_ACCOUNTS_AVAILABLE": "provider_bank_item.accounts_available",
}


class Options(base.Options):
    """`secret` is the API secret, used to fetch keys; webhooks have no secret of ours."""

    client_id: str
    secret: SecretStr
    base_url: HttpUrl = HttpUrl("https://production.plaid.com")


class Plaid(Provider):
    name = "plaid"
    needs_secret = False
    options_model = Options
    options: Options

    def __init__(self, endpoint: Endpoint, options: base.Options) -> None:
        super().__init__(endpoint, options)
        self._keys = Keys(self.options)

    async def verify(self, headers: Headers, body: bytes) -> Authentication:
        token = require_single_header(headers, "plaid-verification")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise VerificationFailed("Plaid-Verification is not a JSON Web Token") from None
        key_id = header.get("kid")
        is_id = isinstance(key_id, str) and 0 < len(key_id) <= _LONGEST_KEY_ID
        if header.get("alg") != "ES256" or not is_id:
            raise VerificationFailed("Plaid-Verification is not signed with ES256 and a key id")
        key = await self._keys.get(str(key_id))
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=["ES256"],
                options={"require": ["iat", "request_body_sha256"], "verify_iat": False},
            )
            signed_at = int(claims["iat"])
        except (jwt.PyJWTError, ValueError, TypeError):
            raise VerificationFailed("the signature of Plaid-Verification does not match") from None
        if abs(time.time() - signed_at) > TOLERANCE_SECONDS:
            raise VerificationFailed(
                f"Plaid-Verification is not from the last {TOLERANCE_SECONDS} s"
            )
        said = str(claims["request_body_sha256"]).encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(said, digest(body).encode()):
            raise VerificationFailed("Plaid-Verification belongs to another body")
        return Authentication("signature", occasion=token)

    def _translate(self, webhook: Any, proof: Authentication) -> Sequence[Event[Any]]:
        kind, code = webhook["webhook_type"], webhook["webhook_code"]
        type_ = _ITEM_CODES.get(code) if kind == "ITEM" else None
        if (kind, code) == ("TRANSACTIONS", "SYNC_UPDATES_AVAILABLE"):
            type_ = "provider_bank_item.updated"
        # There is no event id, and an identical body may report a new occurrence, even within the
        # same second. A token is made for one call.
        id_ = derived_id(self.source, str(proof.occasion), json.dumps(webhook, sort_keys=True))
        # A processor's webhooks name an account instead; Paybus syncs items.
        if type_ is None or "item_id" not in webhook:
            return [self.passthrough_event(f"{kind}.{code}", webhook, id_=id_, proof=proof)]
        return [
            self.event(type_, _report(webhook), id_=id_, subject=webhook["item_id"], proof=proof)
        ]


def _report(webhook: Object) -> ProviderBankItem:
    error = webhook.get("error") or {}
    until = webhook.get("disconnect_time") or webhook.get("consent_expiration_time")
    return ProviderBankItem(
        provider="plaid",
        item_id=webhook["item_id"],
        account_id=webhook.get("account_id"),
        code=webhook["webhook_code"],
        reason=error.get("error_code") or webhook.get("reason"),
        until=parse(until) if until else None,
        initial_update_complete=webhook.get("initial_update_complete"),
        historical_update_complete=webhook.get("historical_update_complete"),
    )


class Keys:
    """Plaid's public keys by id, fetched when first met and again every hour.

    Invented ids would cause a request each, so all unknown ids share a budget. They can neither
    exhaust the budget of known keys nor evict those keys.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._good: dict[str, _Good] = {}
        self._refused: dict[str, float] = {}  # when each may be fetched again, Unix seconds
        self._asked: deque[float] = deque(maxlen=_ASKS_PER_MINUTE)
        # One request at a time per lock, so that known keys do not wait for invented ones.
        self._renewing, self._learning = asyncio.Lock(), asyncio.Lock()

    async def get(self, key_id: str) -> jwt.PyJWK:
        """Return the key. Raises `VerificationFailed` for a key that Plaid does not know or that
        has expired, and `Unavailable` when Plaid cannot be reached now."""
        if (key := self._fresh(key_id)) is None:
            turn = self._renewing if key_id in self._good else self._learning
            try:
                # Includes the wait for the lock: invented ids must not make callers pile up.
                async with asyncio.timeout(_ASK_SECONDS), turn:
                    key = self._fresh(key_id) or await self._poll(key_id)
            except TimeoutError:
                raise Unavailable("Plaid did not return its key in time") from None
        return key

    def _fresh(self, key_id: str) -> jwt.PyJWK | None:
        now = time.time()
        if self._refused.get(key_id, 0) > now:
            raise VerificationFailed(_NOT_VOUCHED)
        good = self._good.get(key_id)
        return good.key if good is not None and good.until > now else None

    async def _poll(self, key_id: str) -> jwt.PyJWK:
        now = time.time()
        if key_id not in self._good:
            self._spend(now)
        answer = await self._call(key_id)
        if answer.status_code != HTTPStatus.BAD_REQUEST and not answer.is_success:
            raise Unavailable(f"Plaid answers {answer.status_code} to the request for its key")
        key = answer.json()["key"] if answer.is_success else {"expired_at": now}
        expires = key.get("expired_at") or math.inf
        if expires <= now:
            self._good.pop(key_id, None)
            while len(self._refused) >= _MOST_REFUSED:
                del self._refused[next(iter(self._refused))]
            self._refused[key_id] = now + _REFUSED_SECONDS
            raise VerificationFailed(_NOT_VOUCHED)
        good = _Good(jwt.PyJWK(key, algorithm="ES256"), min(now + _GOOD_SECONDS, expires))
        self._good[key_id] = good
        return good.key

    def _spend(self, now: float) -> None:
        if len(self._asked) == _ASKS_PER_MINUTE and now - self._asked[0] < 60:
            raise Unavailable("too many unknown keys were requested in the last minute")
        self._asked.append(now)

    async def _call(self, key_id: str) -> httpx.Response:
        try:
            async with httpx.AsyncClient(timeout=_ASK_SECONDS) as http:
                return await bounded(
                    http,
                    "POST",
                    f"{str(self._options.base_url).rstrip('/')}/webhook_verification_key/get",
                    json={
                        "client_id": self._options.client_id,
                        "secret": self._options.secret.get_secret_value(),
                        "key_id": key_id,
                    },
                )
        except (httpx.RequestError, ProviderTimeout) as error:
            raise Unavailable(
                f"the request for Plaid's key failed: {type(error).__name__}"
            ) from None


@dataclass(frozen=True)
class _Good:
    key: jwt.PyJWK
    until: float

"""Client of the subscription service, which starts checkouts with every provider."""

from __future__ import annotations

from typing import Any

import httpx
from pydantic import HttpUrl

from common.errors import Conflict, Invalid, ProviderRejected, RateLimited, Upstream

_AGAIN = "send the same request with the same Idempotency-Key again"
_BUSY_SECONDS = 5.0


class CheckoutStarter:
    """Client that starts checkouts on behalf of our own caller, with that caller's `token`."""

    def __init__(self, url: HttpUrl | None, http: httpx.AsyncClient) -> None:
        self._url = f"{str(url).rstrip('/')}/v1/checkouts" if url is not None else None
        self._http = http

    async def start(self, token: str, key: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return the checkout as the subscription service represents it. Raise `Invalid`,
        `Conflict` or `ProviderRejected`, or `Upstream` or `RateLimited` if the same request may be
        sent again."""
        if self._url is None:
            raise Invalid("checkouts are disabled: SUBSCRIPTION_URL is not set")
        headers = {"Authorization": token, "Idempotency-Key": key}
        try:
            answer = await self._http.post(self._url, json=request, headers=headers)
            said = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Upstream(
                f"the subscription service did not respond ({type(error).__name__}): {_AGAIN}"
            ) from error
        if answer.is_success and isinstance(said, dict):
            return said
        detail = str(said.get("detail")) if isinstance(said, dict) else "something strange"
        match answer.status_code:
            case 400:
                raise Invalid(detail)
            case 409:
                raise Conflict(detail)
            case 422:
                raise ProviderRejected(detail, 422)
            case 503:
                raise RateLimited(detail, _BUSY_SECONDS)
            case status:
                raise Upstream(f"the subscription service answers {status}: {detail}")

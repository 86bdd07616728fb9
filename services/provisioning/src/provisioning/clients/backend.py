"""Client of the backend API that manages organizations.

Calls that create something carry an idempotency key derived from our own reference. Not every
backend API honours it indefinitely, so after an unknown outcome the caller queries first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from common.clients.json_api import bounded
from common.contracts.event import derived_id
from common.errors import Permanent, ProviderTimeout, RateLimited, Upstream

_DEFAULT_RETRY_AFTER_SECONDS = 30.0
_LONGEST_EXCERPT = 500


class BackendFailed(Upstream):
    """No response, or a server error: the call may have taken effect nevertheless."""


class BackendBusy(BackendFailed):
    """The backend API responds that it can't do this now, which does not open its circuit."""


class BackendRefused(Upstream, Permanent):
    """The backend API understood the call and rejects it; a retry is useless."""


class Backend:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def find_organization(self, reference: str) -> str | None:
        """Return the id of the organization that was created with our reference, if any."""
        found = await self._call("GET", "/organizations", params={"reference": reference})
        items = found["items"]
        return str(items[0]["id"]) if items else None

    async def create_organization(self, reference: str, name: str) -> str:
        """Create an organization and return its id."""
        created = await self._call(
            "POST", "/organizations", key=reference, json={"reference": reference, "name": name}
        )
        return str(created["id"])

    async def has_user(self, organization: str, email: str) -> bool:
        found = await self._call(
            "GET", f"/organizations/{organization}/users", params={"email": email}
        )
        return bool(found["items"])

    async def create_admin(self, organization: str, reference: str, email: str, name: str) -> None:
        await self._call(
            "POST",
            f"/organizations/{organization}/users",
            # A corrected address is a different request, which the same key would suppress.
            key=f"{reference}:admin:{derived_id(email)}",
            json={"email": email, "name": name, "role": "admin"},
        )

    async def set_status(self, organization: str, status: str) -> None:
        """Set the status, `active` or `suspended`. Idempotent."""
        await self._call("PUT", f"/organizations/{organization}/status", json={"status": status})

    async def _call(
        self, method: str, path: str, *, key: str | None = None, **request: Any
    ) -> Mapping[str, Any]:
        headers = {"Idempotency-Key": key} if key else {}
        what = f"{method} {path}"
        try:
            response = await bounded(self._client, method, path, headers=headers, **request)
        except (httpx.RequestError, ProviderTimeout) as error:
            raise BackendFailed(
                f"{what}: no response from the back end ({type(error).__name__}: {error})"
            ) from error
        if response.is_success:
            return _body(what, response)
        excerpt = response.text[:_LONGEST_EXCERPT]
        said = f"{what}: the back end answered {response.status_code}: {excerpt}"
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise RateLimited(said, _retry_after(response))
        if response.status_code in {408, 409, 425}:
            raise BackendBusy(said)
        if response.is_server_error:
            raise BackendFailed(said)
        raise BackendRefused(said)


def _body(what: str, response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise BackendFailed(f"{what}: the back end answered {response.status_code} without JSON")
    return body


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else _DEFAULT_RETRY_AFTER_SECONDS

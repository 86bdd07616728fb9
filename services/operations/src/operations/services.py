"""The other services' APIs: whether they are ready, and their scheduled jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import HttpUrl

from common.errors import NotFound, Upstream

_SECONDS = 5
ACTIONS = frozenset({"run", "pause", "resume", "cancel"})


class Services:
    """`urls` by service. They are called as the caller of ours, by whose `token`."""

    def __init__(self, urls: Mapping[str, HttpUrl]) -> None:
        self._urls = {name: str(url).rstrip("/") for name, url in sorted(urls.items())}

    async def health(self) -> dict[str, str]:
        """`ok`, or what is wrong, by service."""

        async def one(url: str) -> str:
            try:
                async with httpx.AsyncClient(timeout=_SECONDS) as http:
                    answer = await http.get(f"{url}/readyz")
                return "ok" if answer.is_success else str(answer.json().get("detail", "not ready"))
            except (httpx.HTTPError, ValueError, AttributeError) as error:
                return f"does not answer: {type(error).__name__}"

        found = await asyncio.gather(*(one(url) for url in self._urls.values()))
        return dict(zip(self._urls, found, strict=True))

    async def jobs(self, token: str) -> list[dict[str, Any]]:
        """Every service's scheduled jobs; of a service that can't be asked, one that says why."""

        async def one(name: str) -> list[dict[str, Any]]:
            try:
                found = await self._call("GET", name, "/v1/schedules", token)
            except Upstream as error:
                return [{"service": name, "name": None, "problem": str(error)}]
            return [{"service": name, "problem": None, **each} for each in found]

        found = await asyncio.gather(*(one(name) for name in self._urls))
        return [each for jobs in found for each in jobs]

    async def act(self, service: str, job: str, action: str, token: str) -> Any:
        """Raises `NotFound` for a service that is not known, `Upstream` when it refuses."""
        return await self._call("POST", service, f"/v1/schedules/{job}/{action}", token)

    async def _call(self, method: str, service: str, path: str, token: str) -> Any:
        if service not in self._urls:
            raise NotFound(f"no service is called {service!r}: SERVICE_URLS names them")
        try:
            async with httpx.AsyncClient(timeout=_SECONDS) as http:
                answer = await http.request(
                    method, f"{self._urls[service]}{path}", headers={"Authorization": token}
                )
            said = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Upstream(f"{service} does not answer: {type(error).__name__}") from error
        if not answer.is_success:
            detail = said.get("detail") if isinstance(said, dict) else None
            raise Upstream(f"{service} answers {answer.status_code}: {detail}")
        return said

"""Clients of the other services' APIs: readiness, figures and scheduled jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any

import httpx
from pydantic import BaseModel, HttpUrl

from common.errors import NotFound, Upstream
from common.http.service_status import ServiceStatus

_SECONDS = 4
_STATUS = "/v1/status"
WELL = "ok"
_SILENT = "does not answer"
ACTIONS = frozenset({"run", "pause", "resume", "cancel"})


class ServiceView(BaseModel):
    """`state` is `ok` or the problem; `figures` are null if the service could not be queried."""

    state: str
    figures: ServiceStatus | None


class ProviderView(BaseModel):
    """An endpoint of the webhook gateway since the queried process started: the number of webhooks
    accepted and refused, the time of the last of each, and the reason of the last refusal. Times
    are UTC."""

    endpoint: str
    provider: str
    tenant: str
    accepted: int
    refused: int
    last_accepted: datetime | None
    last_refused: datetime | None
    last_reason: str | None


class Services:
    """`urls` are by service; `gateway` is the webhook gateway's URL. Services are called with the
    caller's own `token`."""

    def __init__(self, urls: Mapping[str, HttpUrl], gateway: HttpUrl | None) -> None:
        self._urls = {name: str(url).rstrip("/") for name, url in sorted(urls.items())}
        self._gateway = str(gateway).rstrip("/") if gateway is not None else None

    async def health(self, token: str) -> dict[str, ServiceView]:
        """Return each service's state and figures."""

        async def one(name: str) -> ServiceView:
            state = await _ready(self._urls[name])
            if state.startswith(_SILENT):
                return ServiceView(state=state, figures=None)
            try:
                figures = ServiceStatus(**await self._call("GET", name, _STATUS, token))
            except (Upstream, NotFound) as error:
                return ServiceView(state=str(error) if state == WELL else state, figures=None)
            return ServiceView(state=state, figures=figures)

        found = await asyncio.gather(*(one(name) for name in self._urls))
        return dict(zip(self._urls, found, strict=True))

    async def providers(self) -> tuple[str | None, list[ProviderView]]:
        """Return the gateway's state and webhooks by endpoint; None and [] without a gateway."""
        if self._gateway is None:
            return None, []
        state = await _ready(self._gateway)
        try:
            async with httpx.AsyncClient(timeout=_SECONDS) as http:
                answer = await http.get(f"{self._gateway}/health/detailed")
            found = answer.raise_for_status().json()["endpoints"]
            return state, [ProviderView(endpoint=path, **each) for path, each in found.items()]
        except (httpx.HTTPError, ValueError, KeyError):
            return state, []

    async def jobs(self, token: str) -> list[dict[str, Any]]:
        """Return all scheduled jobs; one entry with the `problem` for an unreachable service."""

        async def one(name: str) -> list[dict[str, Any]]:
            try:
                found = await self._call("GET", name, "/v1/schedules", token)
            except (Upstream, NotFound) as error:
                return [{"service": name, "name": None, "problem": str(error)}]
            return [{"service": name, "problem": None, **each} for each in found]

        found = await asyncio.gather(*(one(name) for name in self._urls))
        return [each for jobs in found for each in jobs]

    async def act(self, service: str, job: str, action: str, token: str) -> Any:
        """Call a scheduled job's action. Raises `NotFound` for an unknown service or job,
        `Upstream` if the service refuses or does not respond."""
        return await self._call("POST", service, f"/v1/schedules/{job}/{action}", token)

    async def _call(self, method: str, service: str, path: str, token: str) -> Any:
        if service not in self._urls:
            raise NotFound(f"there is no service {service!r}: SERVICE_URLS lists them")
        try:
            async with httpx.AsyncClient(timeout=_SECONDS) as http:
                answer = await http.request(
                    method, f"{self._urls[service]}{path}", headers={"Authorization": token}
                )
            said = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Upstream(f"{service} does not answer: {type(error).__name__}") from error
        if answer.status_code == HTTPStatus.NOT_FOUND:
            raise NotFound(f"{service}: {said.get('detail') if isinstance(said, dict) else 'no'}")
        if not answer.is_success:
            detail = said.get("detail") if isinstance(said, dict) else None
            raise Upstream(f"{service} answers {answer.status_code}: {detail}")
        return said


async def _ready(url: str) -> str:
    try:
        async with httpx.AsyncClient(timeout=_SECONDS) as http:
            answer = await http.get(f"{url}/readyz")
        return WELL if answer.is_success else str(answer.json().get("detail", "not ready"))
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        return f"{_SILENT}: {type(error).__name__}"

"""The gateway's health: details for operators, a public status for anyone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from webhook_gateway.delivery.durable_publisher import DurablePublisher
from webhook_gateway.providers.endpoint_registry import EndpointRegistry

_GOOD = frozenset({"published", "spooled", "dead_lettered"})


@dataclass
class EndpointCounters:
    """Counts of one endpoint's calls since this process started; times in Unix seconds."""

    accepted: int = 0
    refused: int = 0
    last_accepted: float | None = None
    last_refused: float | None = None
    last_reason: str | None = None


class EndpointStats:
    """The counters of all endpoints, by path."""

    def __init__(self) -> None:
        self._seen: dict[str, EndpointCounters] = {}

    def record(self, path: str, outcome: str, reason: str | None) -> None:
        """Count one call. `reason` is why it was not accepted."""
        seen = self._seen.get(path)
        if seen is None:
            seen = self._seen[path] = EndpointCounters()
        if outcome in _GOOD:
            seen.accepted += 1
            seen.last_accepted = time.time()
        else:
            seen.refused += 1
            seen.last_refused = time.time()
            seen.last_reason = reason or outcome

    def snapshot(self, path: str) -> Mapping[str, Any]:
        """Return the endpoint's counters; times in UTC."""
        seen = self._seen.get(path, EndpointCounters())
        return {
            "accepted": seen.accepted,
            "refused": seen.refused,
            "last_accepted": _moment(seen.last_accepted),
            "last_refused": _moment(seen.last_refused),
            "last_reason": seen.last_reason,
        }


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def create_router(
    routes: EndpointRegistry, publisher: DurablePublisher, record: EndpointStats
) -> APIRouter:
    router = APIRouter()

    @router.get("/health/detailed", tags=["health"])
    async def detailed() -> dict[str, Any]:
        """Return the state of the broker connection and the spool, and each endpoint's counters
        since this process started. Internal use only: the response names tenants."""
        return {
            "broker": {"connected": publisher.connected},
            "spool": await publisher.spool_state(),
            "endpoints_file": {"fault": routes.fault, "not_served": routes.not_served},
            "endpoints": {
                provider.endpoint.path: {
                    "provider": provider.name,
                    "tenant": provider.endpoint.tenant,
                    **record.snapshot(provider.endpoint.path),
                }
                for provider in routes.all()
            },
        }

    @router.get("/webhooks/health", tags=["health"])
    async def webhooks() -> Response:
        """Return 200 if a webhook would be accepted now, otherwise 503."""
        well = await publisher.accepts_webhooks()
        status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": "ok" if well else "unavailable"}, status)

    return router

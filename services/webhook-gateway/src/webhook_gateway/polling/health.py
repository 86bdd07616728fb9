"""Health of the worker that polls providers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from webhook_gateway.polling.poller import PaymentPoller


def create_worker_router(poller: PaymentPoller) -> APIRouter:
    router = APIRouter()

    @router.get("/health/detailed", tags=["health"])
    async def detailed() -> dict[str, Any]:
        """Return the payments that are still polled, by endpoint."""
        return {"payments": await poller.health()}

    return router

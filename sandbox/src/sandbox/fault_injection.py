"""Behaviour of a stand-in: slow, failing, responding after the work or not at all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field


class Behaviour(BaseModel):
    """The outcome of the next calls. `rate` is the share of calls that misbehave, chosen at random;
    `says` is the text of their responses."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["well", "fail", "fail_after", "hang_after", "refuse", "rate_limit"] = "well"
    rate: float = Field(default=1.0, ge=0, le=1)
    delay_seconds: float = Field(default=0.0, ge=0, le=60)
    says: str | None = None


_EARLY: dict[str, tuple[int, dict[str, str]]] = {
    "fail": (503, {}),
    "refuse": (422, {}),
    "rate_limit": (429, {"Retry-After": "1"}),
}


def install(app: FastAPI, *, seed: int, count: Callable[[Request], None]) -> None:
    """Add `PUT /_behaviour`, which applies to all paths except the stand-in's own (`/_x`).

    `count` is called with every such request.
    """
    chance = random.Random(seed)  # noqa: S311 - reproducible misbehaviour
    state = {"behaviour": Behaviour()}

    @app.middleware("http")
    async def misbehave(
        request: Request, proceed: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if "/_" in request.url.path:
            return await proceed(request)
        count(request)
        behaviour = state["behaviour"]
        await asyncio.sleep(behaviour.delay_seconds)
        mode = behaviour.mode if chance.random() < behaviour.rate else "well"
        if mode in _EARLY:
            status, headers = _EARLY[mode]
            return Response(
                behaviour.says or f"{mode} on request", status_code=status, headers=headers
            )
        response = await proceed(request)
        if mode == "fail_after":
            return Response(behaviour.says or "a fault on request, after the work", status_code=500)
        if mode == "hang_after":
            await asyncio.sleep(3600)
        return response

    @app.put("/_behaviour")
    async def behave(behaviour: Behaviour) -> Behaviour:
        state["behaviour"] = behaviour
        return behaviour

"""Delivers providers' callbacks, with configurable faults."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from sandbox.stratified_choice import Deck

# In production these are hours, over days.
_PATIENT_TRIES = 200
_PATIENT_PAUSE_SECONDS = 1.0

# httpx scans every connection for every waiting request: thousands waiting while a gateway is down
# would take all of its time.
_AT_ONCE = 32


class Delivery(BaseModel):
    """Faults of delivery: shares of callbacks that are lost or sent twice, and the maximum delay of
    each, which also reorders them. `urls` are the destinations by provider; omitted, they stay."""

    model_config = ConfigDict(extra="forbid")

    urls: dict[str, str] = Field(default_factory=dict)
    drop: float = Field(default=0, ge=0, le=1)
    duplicate: float = Field(default=0, ge=0, le=1)
    delay_seconds: float = Field(default=0, ge=0, le=60)


class Postman:
    """Sends each callback once, as mobile money providers do, without a retry when the response is
    not 2xx, except for `patient` providers. `body` is JSON, as bytes where it is signed."""

    def __init__(self, seed: int) -> None:
        self.delivery = Delivery()
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(seed)  # noqa: S311 - reproducible misbehaviour
        self._deck: Deck[int] | None = None
        self._dealt_for: Delivery | None = None
        # Created once: each client loads all certificates.
        self._http = httpx.AsyncClient(timeout=10)
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()

    def send(
        self,
        provider: str,
        body: Any,
        headers: Mapping[str, str],
        *,
        url: str | None = None,
        method: str = "POST",
        surely: bool = False,
        patient: bool = False,
    ) -> None:
        """Send a callback. `surely` exempts it from the delivery faults: for forgeries."""
        to = url or self.delivery.urls.get(provider)
        if to is None:
            return
        times = 1 if surely else self._times()
        if times != 1:
            self.counts[f"{provider} {'doubled' if times else 'dropped'}"] += 1
        for _ in range(times):
            late = self._chance.uniform(0, self.delivery.delay_seconds)
            task = asyncio.create_task(
                self._send(provider, to, body, headers, method, late, patient)
            )
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    def _times(self) -> int:
        """Return how many times the next callback is sent."""
        if self._deck is None or self._dealt_for != self.delivery:
            shares = {0: self.delivery.drop, 2: self.delivery.duplicate}
            self._deck = Deck(shares, 1, self._chance)
            self._dealt_for = self.delivery
        return self._deck.deal()

    async def _send(
        self,
        provider: str,
        url: str,
        body: Any,
        headers: Mapping[str, str],
        method: str,
        late: float,
        patient: bool,
    ) -> None:
        await asyncio.sleep(late)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        as_json = {"Content-Type": "application/json", **headers}
        for _ in range(_PATIENT_TRIES if patient else 1):
            try:
                async with self._places:
                    answer = await self._http.request(method, url, content=content, headers=as_json)
                self.counts[f"{provider} answered {answer.status_code}"] += 1
                if answer.is_success:
                    return
            except httpx.TransportError:
                self.counts[f"{provider} unanswered"] += 1
            await asyncio.sleep(_PATIENT_PAUSE_SECONDS)

"""Webhooks, and a provider that sends them until they are accepted."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from devstack.endpoints import SECRETS
from devstack.webhook import signature, subscription_created

_PER_SUBSCRIPTION = 5  # the creation and four payments
FEWEST = 20 * _PER_SUBSCRIPTION
# The unit of an open-ended load: complete subscriptions, shuffled among themselves.
_BLOCK = 200 * _PER_SUBSCRIPTION
_ANSWER_SECONDS = 10  # a provider's timeout


@dataclass(frozen=True)
class Plan:
    """The load. `webhooks` counts distinct ones; each is sent `copies` times. With `open_ended`, it
    is the maximum, and the load ends when the provider is told to stop."""

    webhooks: int
    copies: int = 1
    poison_every: int = 0
    killer: bool = False
    open_ended: bool = False


@dataclass
class Webhooks:
    """The webhooks of a scenario, by their expected results."""

    subscriptions: list[str] = field(default_factory=list)
    invoices: list[str] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)  # must end as dead letters, without effect
    killers: set[str] = field(default_factory=set)  # kill the ledger's process only
    bodies: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, plan: Plan, dice: random.Random) -> Webhooks:
        made = cls()
        count = plan.webhooks // _PER_SUBSCRIPTION
        block = _BLOCK // _PER_SUBSCRIPTION if plan.open_ended else max(1, count)
        for start in range(0, count, block):
            events: list[dict[str, Any]] = []
            for number in range(start, min(start + block, count)):
                events += made._subscription(f"{number:05d}")
            if not plan.open_ended:
                events += made._bad(plan)
            events *= plan.copies
            dice.shuffle(events)
            made.bodies += [json.dumps(event).encode() for event in events]
        return made

    def _subscription(self, name: str) -> list[dict[str, Any]]:
        invoices = range(1, _PER_SUBSCRIPTION)
        self.subscriptions.append(name)
        self.invoices += [f"{name}_{period}" for period in invoices]
        return [
            subscription_created(name),
            *(_invoice_paid(name, period) for period in invoices),
        ]

    def _bad(self, plan: Plan) -> list[dict[str, Any]]:
        events = []
        if plan.poison_every:
            for number in range(plan.webhooks // plan.poison_every):
                event = subscription_created(f"poison{number}")
                # NUL passes every check before PostgreSQL.
                event["data"]["object"]["metadata"]["organization"] = "\x00"
                self.poison.add(event["id"])
                events.append(event)
        if plan.killer:
            event = subscription_created("killer")
            event["id"] = "evt_killer"
            self.subscriptions.append("killer")
            self.killers.add(event["id"])
            events.append(event)
        return events

    def first(self, count: int) -> Webhooks:
        """Return the first `count` webhooks of an open-ended load, in complete blocks."""
        of = count // _PER_SUBSCRIPTION
        invoices = self.invoices[: of * (_PER_SUBSCRIPTION - 1)]
        return Webhooks(self.subscriptions[:of], invoices, bodies=self.bodies[:count])


def _invoice_paid(subscription: str, period: int) -> dict[str, Any]:
    now = int(time.time()) + period
    name = f"{subscription}_{period}"
    return {
        "id": f"evt_in_{name}",
        "object": "event",
        "type": "invoice.paid",
        "created": now,
        "data": {
            "object": {
                "id": f"in_{name}",
                "object": "invoice",
                "customer": f"cus_{subscription}",
                "subscription": f"sub_{subscription}",
                "amount_paid": 1500,
                "amount_due": 1500,
                "currency": "eur",
            }
        },
    }


class Provider(threading.Thread):
    """Sends each webhook, at `rate` per second, until a gateway responds with 2xx.

    A random gateway is tried each time, as by a load balancer.
    """

    def __init__(
        self,
        gateways: Sequence[str],
        bodies: Sequence[bytes],
        *,
        rate: float,
        connections: int,
        seed: int,
    ) -> None:
        super().__init__(name="provider", daemon=True)
        self._gateways = [f"{url}/webhooks/stripe" for url in gateways]
        self._bodies = bodies
        self._begun = 0
        self._last = len(bodies)
        self._rate = rate
        self._connections = connections
        self._dice = random.Random(seed)
        self.accepted = 0
        self.seconds = 0.0  # from the first to the last
        self.failures = Counter[str]()  # attempts without a 2xx response, by cause
        self.turned_away = 0  # those with another response

    @property
    def refused(self) -> int:
        return self.failures.total()

    def enough(self) -> int:
        """Finish the current block and stop. Returns the total number of webhooks."""
        self._last = min(self._last, -(-self._begun // _BLOCK) * _BLOCK)
        return self._last

    def use(self, url: str, *, instead_of: str) -> None:
        """Replace a gateway in the list, as in a load balancer."""
        others = [each for each in self._gateways if each != f"{instead_of}/webhooks/stripe"]
        self._gateways = [*others, f"{url}/webhooks/stripe"]

    def run(self) -> None:
        asyncio.run(self._send_all())

    async def _send_all(self) -> None:
        waiting: asyncio.Queue[bytes] = asyncio.Queue()
        started = time.monotonic()
        limit = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=limit) as http, asyncio.TaskGroup() as group:
            senders = [
                group.create_task(self._sender(http, waiting)) for _ in range(self._connections)
            ]
            while self._begun < self._last:
                due = started + self._begun / self._rate
                await asyncio.sleep(max(0, due - time.monotonic()))
                waiting.put_nowait(self._bodies[self._begun])
                self._begun += 1
            await waiting.join()
            self.seconds = time.monotonic() - started
            for sender in senders:
                sender.cancel()

    async def _sender(self, http: aiohttp.ClientSession, waiting: asyncio.Queue[bytes]) -> None:
        while True:
            body = await waiting.get()
            while True:
                if await self._accepted(http, body):
                    break
                await asyncio.sleep(self._dice.uniform(0.2, 0.6))
            self.accepted += 1
            waiting.task_done()

    async def _accepted(self, http: aiohttp.ClientSession, body: bytes) -> bool:
        headers = {"Stripe-Signature": signature(body, SECRETS["stripe"])}
        started = time.monotonic()
        try:
            async with http.post(
                self._dice.choice(self._gateways), data=body, headers=headers
            ) as answer:
                said = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failures[f"{error!r} after {time.monotonic() - started:.1f} s"] += 1
            return False
        if 400 <= answer.status < 500:
            raise AssertionError(f"a good webhook was refused: {said}")
        if not answer.ok:
            self.turned_away += 1
            self.failures[f"{answer.status} {said}"] += 1
        return answer.ok

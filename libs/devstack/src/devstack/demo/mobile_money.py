"""A shop on mobile money: payers who pay or do not, callbacks that are lost, duplicated and forged.

A forged callback has the provider's secret and names a real payment, but its claim is false.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

from common.contracts.event import Event
from devstack.demo.base import Part, Stage, everything, insist
from devstack.demo.report import Check, table_of_checks

PROVIDERS = ("fapshi", "mtn-momo", "orange-money", "flutterwave")
_DROPPED, _DOUBLED, _FORGED, _FAILED, _IGNORED = 0.3, 0.2, 0.1, 0.1, 0.1
_LATE_SECONDS = 3
_PER_SECOND = 20
_SEED = 20


class MobileMoneyShop(Part):
    def __init__(self, stage: Stage, wanted: int) -> None:
        super().__init__(stage)
        self._wanted = wanted
        self._fates = _fates(wanted)
        self._started: dict[str, dict[str, Any]] = {}  # by the subscription that each is for
        self._paid: set[str] = set()
        self._forged: dict[str, str] = {}  # the payment's reference
        self._told: Counter[str] = Counter()
        self._organizations_before = 0

    def hear(self, event: Event[Any]) -> None:
        if event.type == "subscription.activated" and event.data.provider == "paybus":
            self._told[event.subject] += 1

    async def act(self) -> None:
        self._organizations_before = len((await self._books("sandbox-backend"))["organizations"])
        gateway = self.stage.url("webhook-gateway")
        delivery = {
            "urls": {name: f"{gateway}/webhooks/{name}" for name in PROVIDERS},
            "drop": _DROPPED,
            "duplicate": _DOUBLED,
            "delay_seconds": _LATE_SECONDS,
        }
        async with self.stage.client("operator") as shop, httpx.AsyncClient(timeout=30) as payers:
            await self._sandbox(payers, "PUT", "/_delivery", **delivery)
            async with asyncio.TaskGroup() as customers:
                for number, fate in enumerate(self._fates):
                    customers.create_task(self._customer(shop, payers, number, fate))
                    await asyncio.sleep(1 / _PER_SECOND)

    async def _customer(
        self, shop: httpx.AsyncClient, payers: httpx.AsyncClient, number: int, fate: str
    ) -> None:
        provider = PROVIDERS[number % len(PROVIDERS)]
        checkout = await insist(
            shop,
            f"{self.stage.url('subscription-api')}/v1/checkouts",
            headers={"Idempotency-Key": f"demo-{number}"},
            json={
                "provider": provider,
                "amount": 5000,
                "currency": "XAF",
                "plan": {"plan_id": "gold", "name": "Gold", "interval": "month"},
                "customer": {
                    "reference": f"user-{number}",
                    "email": f"user-{number}@example.com",
                    "name": f"User {number}",
                    "phone": f"2376{number:08}",
                },
                "return_url": "https://shop.example.com/thanks",
            },
        )
        subscription = checkout["subscription_id"]
        self._started[subscription] = checkout
        payment = {"provider": provider, "reference": checkout["reference"]}
        if fate == "forged":
            self._forged[subscription] = checkout["reference"]
            await self._sandbox(payers, "POST", "/_forge", **payment, claim="succeeded")
        elif fate != "ignored":
            path = f"/_payments/{provider}/_{checkout['reference']}"
            standing = "succeeded" if fate == "paid" else "failed"
            await self._sandbox(payers, "PUT", path, standing=standing)
            if fate == "paid":
                self._paid.add(subscription)

    async def done(self) -> bool:
        if not self._paid <= self._told.keys():
            return False
        return await self._forgeries_asked_about() == len(self._forged)

    async def _forgeries_asked_about(self) -> int:
        """Return how many forged payments were confirmed by a status query."""
        forged = set(self._forged.values())
        payments = (await self._books("sandbox-providers"))["payments"]
        return sum(each["asked"] > 0 for each in payments if each["reference"] in forged)

    def counts(self) -> Mapping[str, tuple[int, int | None]]:
        return {
            "checkouts": (len(self._started), self._wanted),
            "paid": (len(self._paid), self._fates.count("paid")),
            "active subscriptions": (len(self._told), self._fates.count("paid")),
        }

    async def checks(self) -> list[Check]:
        async with self.stage.client("viewer") as http:
            listed = f"{self.stage.url('subscription-api')}/v1/subscriptions"
            ours = [each for each in await everything(http, listed) if each["provider"] == "paybus"]
        active = {each["id"] for each in ours if each["status"] == "active"}
        organizations = (await self._books("sandbox-backend"))["organizations"]
        return [
            Check("checkouts started", self._wanted, len(self._started)),
            Check("paid and active", self._fates.count("paid"), len(active & self._paid)),
            Check("told active more than once", 0, sum(n - 1 for n in self._told.values())),
            Check("not paid and active", 0, len(active - self._paid)),
            Check(
                "forged: the provider was asked",
                len(self._forged),
                await self._forgeries_asked_about(),
            ),
            Check(
                "organizations in the back end",
                len(self._paid),
                len(organizations) - self._organizations_before,
            ),
        ]

    async def tables(self, checks: list[Check]) -> list[Table]:
        title = f"mobile money: {self._wanted} checkouts"
        return [table_of_checks(title, checks), await self._by_provider()]

    async def _by_provider(self) -> Table:
        calls = (await self._books("sandbox-providers"))["callbacks"]
        healed = await self._healed()
        table = Table(
            title="what became of callbacks, and what a poll healed",
            caption="Not paid: one in ten payers fails, one never answers, one is forged as paid. "
            "Callbacks of failures are dropped and doubled too; healed is who paid and was only "
            "found by asking, from 15 s on.",
        )
        columns = ("", "started", "paid", "dropped", "doubled", "forged", "active", "healed")
        for column in columns:
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        total = [0] * (len(columns) - 1)
        for provider in PROVIDERS:
            mine = {id_ for id_, each in self._started.items() if each["provider"] == provider}
            row = [
                len(mine),
                len(mine & self._paid),
                calls.get(f"{provider} dropped", 0),
                calls.get(f"{provider} doubled", 0),
                len(mine & self._forged.keys()),
                len(mine & self._told.keys()),
                healed.get(provider, 0),
            ]
            total = [a + b for a, b in zip(total, row, strict=True)]
            table.add_row(provider, *map(str, row), end_section=provider == PROVIDERS[-1])
        table.add_row("together", *map(str, total))
        return table

    async def _healed(self) -> Mapping[str, int]:
        """Return the recovered payments as counted by the gateway's worker."""
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"{self.stage.url('webhook-gateway-worker')}/metrics")
        return {
            sample.labels["provider"]: int(sample.value)
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == "paybus_payments_recovered_total"
        }

    async def _books(self, process: str) -> dict[str, Any]:
        path = "/_books" if process == "sandbox-backend" else "/_money"
        async with httpx.AsyncClient(timeout=30) as http:
            answer = await http.get(f"{self.stage.url(process)}{path}")
        books: dict[str, Any] = answer.raise_for_status().json()
        return books

    async def _sandbox(self, http: httpx.AsyncClient, method: str, path: str, **body: Any) -> None:
        url = f"{self.stage.url('sandbox-providers')}{path}"
        (await http.request(method, url, json=body)).raise_for_status()


def _fates(count: int) -> list[str]:
    """Return the outcome of each checkout, in the configured shares and in random order."""
    shares = {"forged": _FORGED, "failed": _FAILED, "ignored": _IGNORED}
    fates = [fate for fate, share in shares.items() for _ in range(round(count * share))]
    fates += ["paid"] * (count - len(fates))
    random.Random(_SEED).shuffle(fates)  # noqa: S311 - the same scenario in each run
    return fates

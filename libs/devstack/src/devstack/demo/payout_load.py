"""A platform's payday: many concurrent payouts, to providers with faults. Afterwards their records
and ours are compared, payout by payout."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx

from devstack.demo.base import everything
from devstack.processes.system import Layout, introduce_providers
from devstack.tokens import DevKeys

PROVIDERS = ("stripe", "dwolla", "fapshi")
ENVIRONMENT: Mapping[str, str] = {
    "PAYOUTS_INTERVAL_SECONDS": "1",
    "PAYOUT_STATUS_CHECK_DELAY_SECONDS": "1",
    "PAYOUT_STATUS_POLL_DELAY_SECONDS": "5",
    "PROVIDER_TIMEOUT_SECONDS": "2",
}
# The stand-ins create a payout within this grace period or not at all.
OPTIONS: Mapping[str, Any] = {"not_found_grace_seconds": 2, "rate_per_second": 500}

LOST, FAILING, LIMITED = 0.1, 0.1, 0.05
# Mobile money never comes back: of all payouts it is about 3 %.
_COME_BACK = 0.05
_BATCH = 250
_AT_ONCE = 8


@dataclass
class Tally:
    """The contents of both sides' records, by provider."""

    ordered: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    twice: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    amounts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Ours and theirs, in minor units, by currency: what recipients have."""
    pending: int = 0
    discrepancies: int = 0


class Payday:
    def __init__(self, layout: Layout, keys: DevKeys, count: int, seed: int) -> None:
        self.count = count
        self._layout = layout
        self._keys = keys
        self._dice = random.Random(seed)  # noqa: S311 - the same scenario in each run
        self._recipients: list[tuple[str, str]] = []
        self._wanted: dict[str, dict[str, Any]] = {}  # by the payout's id
        self._references: dict[str, str] = {}

    async def prepare(self, sellers: int = 100) -> None:
        """Create recipients without faults, and then enable the faults."""
        introduce_providers(self._layout)
        async with self._client("approver") as http:
            for number in range(sellers):
                provider = PROVIDERS[number % len(PROVIDERS)]
                body = self._recipient(provider, number)
                made = await http.post("/v1/recipients", json=body)
                made.raise_for_status()
                self._recipients.append((body["reference"], body["currency"]))
                self._references[made.json()["id"]] = provider
        await self._sandbox(
            "PUT", "/_payouts/behaviour", lost=LOST, error=FAILING / 2, error_after=FAILING / 2,
            rate_limited=LIMITED, delay_seconds=0.05,
        )  # fmt: skip
        await self._sandbox("PUT", "/_payouts/fates", come_back=_COME_BACK, come_back_seconds=3)
        await self._sandbox("PUT", "/_delivery", duplicate=0.2, delay_seconds=2)

    async def behave_well(self) -> None:
        """Disable the faults; responses that were lost before stay lost."""
        await self._sandbox("PUT", "/_payouts/behaviour", delay_seconds=0.05)

    async def order(self) -> None:
        """Request the payouts in batches; a batch without a response is requested again with the
        same key."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int, size: int) -> None:
            body = {"name": f"batch {number}", "payouts": [self._payout() for _ in range(size)]}
            async with gate, self._client("operator") as http:
                while True:
                    try:
                        made = await http.post(
                            "/v1/batches",
                            json=body,
                            headers={"Idempotency-Key": f"payday-{number}"},
                        )
                    except httpx.TransportError:
                        await asyncio.sleep(0.2)
                        continue
                    if made.is_success:
                        return
                    if made.status_code < 500:
                        made.raise_for_status()
                    await asyncio.sleep(0.2)

        sizes = [_BATCH] * (self.count // _BATCH) + [self.count % _BATCH]
        async with asyncio.TaskGroup() as batches:
            for number, size in enumerate(filter(None, sizes)):
                batches.create_task(one(number, size))

    async def states(self) -> Mapping[str, int]:
        """Return payouts by state; retried until a response arrives."""
        while True:
            try:
                async with self._client("viewer") as http:
                    answer = await http.get("/v1/control")
                states: dict[str, int] = answer.raise_for_status().json()["states"]
            except httpx.HTTPError:
                await asyncio.sleep(0.2)
            else:
                return states

    async def settled(self) -> bool:
        """Return whether every payout is final, on both sides."""
        states = await self.states()
        if states.get("paid", 0) + states.get("returned", 0) < self.count:
            return False
        books = (await self._sandbox("GET", "/_payouts"))["transfers"]
        there = Counter(each["status"] for each in books)
        return there["pending"] == 0 and there["returned"] == states.get("returned", 0)

    async def tally(self) -> Tally:
        """Compare both sides' records: every payout, and every unit."""
        found = Tally()
        theirs: dict[str, list[dict[str, Any]]] = {}
        for each in (await self._sandbox("GET", "/_payouts"))["transfers"]:
            theirs.setdefault(each["reference"], []).append(each)
        ours: Counter[str] = Counter()
        real: Counter[str] = Counter()
        for payout in await self._all_payouts():
            provider, state = payout["provider"], payout["state"]
            found.ordered[provider] += 1
            transfers = theirs.pop(payout["id"], [])
            moved = [each for each in transfers if each["status"] in {"paid", "pending"}]
            real[payout["currency"]] += sum(each["amount"] for each in moved)
            if len(transfers) > 1:
                found.twice.append(payout["id"])
            if not transfers:
                found.forgotten.append(payout["id"])
            if state == "paid":
                found.paid[provider] += 1
                ours[payout["currency"]] += payout["amount"]
            if state == "returned":
                found.returned[provider] += 1
            expected = {"paid": ["paid"], "returned": ["returned"]}.get(state)
            said = [each["status"] for each in transfers]
            amounts = [each["amount"] for each in transfers]
            if said != expected or amounts != [payout["amount"]]:
                found.differing.append(
                    f"{payout['id']}: {state}, the provider says {said}; "
                    f"next action at {payout['next_action_at']}, last error: {payout['error']}"
                )
        found.differing += [f"of nothing: {reference}" for reference in theirs]
        ledger = await self._ledger()
        for currency in sorted(real | ours):
            if ours[currency] != ledger[currency]["paid"]:
                found.differing.append(f"ledger of {currency}: {ledger[currency]['paid']} paid")
            found.amounts[currency] = (ledger[currency]["paid"], real[currency])
            found.pending += ledger[currency]["pending"]
        return found

    async def calls(self) -> Mapping[str, int]:
        calls: dict[str, int] = (await self._sandbox("GET", "/_payouts"))["calls"]
        return calls

    async def _all_payouts(self) -> list[dict[str, Any]]:
        async with self._client("viewer") as http:
            return await everything(http, "/v1/payouts")

    async def _ledger(self) -> Mapping[str, Mapping[str, int]]:
        async with self._client("viewer") as http:
            answer = await http.get("/v1/reports/daily")
        balances = answer.raise_for_status().json()["balances"]
        return {each["currency"]: each for each in balances}

    def _recipient(self, provider: str, number: int) -> dict[str, Any]:
        details = {
            "stripe": {"account": f"acct_{number:016}"},
            "dwolla": {"funding_source": str(UUID(int=number))},
            "fapshi": {"phone": f"6{number:08}"},
        }[provider]
        return {
            "reference": f"payee-{number}",
            "name": f"Payee {number}",
            "provider": provider,
            "account": "default" if provider == "dwolla" else "payouts",
            "currency": "XAF" if provider == "fapshi" else "USD",
            "details": details,
        }

    def _payout(self) -> dict[str, Any]:
        reference, currency = self._dice.choice(self._recipients)
        amount = self._dice.randrange(100, 100_000)
        return {"recipient": reference, "amount": amount, "fee": amount // 100,
                "currency": currency}  # fmt: skip

    def _client(self, role: str) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self._keys.token(role)}"}
        url = self._layout.url("payouts-api")
        return httpx.AsyncClient(base_url=url, headers=headers, timeout=60)

    async def _sandbox(self, method: str, path: str, **body: Any) -> Any:
        url = f"{self._layout.url('sandbox-providers')}{path}"
        async with httpx.AsyncClient(timeout=60) as http:
            answer = await http.request(method, url, json=body or None)
        return answer.raise_for_status().json()

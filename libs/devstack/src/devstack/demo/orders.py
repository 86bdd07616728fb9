"""`make demo-orders`: thousands of orders of several sellers; a third is never paid, some are paid
too late, some are refunded, while workers are killed. Then all ledgers are added up."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console

from devstack.demo.base import everything
from devstack.demo.environment import kill_workers, scene
from devstack.demo.report import Bars, Check, table_of_checks
from devstack.processes.system import Layout, introduce
from devstack.tokens import DevKeys

PROCESSES = (
    "sandbox-providers", "sandbox-stripe", "webhook-gateway", "webhook-gateway-worker",
    "subscription-api", "subscription-worker", "payouts-api", "payouts-worker", "orders-api",
    "orders-worker",
)  # fmt: skip
ENVIRONMENT: Mapping[str, str] = {
    "ORDERS_INTERVAL_SECONDS": "2",
    "PAYMENT_POLLS_PER_SECOND": "500",
    "PAYMENT_POLL_BURST": "500",
    "RETRY_LADDER": "1s,2s,5s,10s,30s",
    "PAYOUTS_INTERVAL_SECONDS": "1",
    "PAYOUT_STATUS_CHECK_DELAY_SECONDS": "1",
    "PAYOUT_STATUS_POLL_DELAY_SECONDS": "5",
}
_NEVER, _LATE, _PARTLY, _WHOLLY = 0.33, 0.01, 0.02, 0.01
_AT_ONCE = 12
_SELLERS = 20
_CURRENCY = "XAF"
_PATIENCE_SECONDS = 300
_WORKER_DIES_EVERY_SECONDS = 15.0
_SEED = 3


@dataclass
class BuyerScenario:
    """One buyer's intent, and the resulting order."""

    fate: str
    lines: list[dict[str, Any]]
    rule: str
    order: dict[str, Any] = field(default_factory=dict)

    @property
    def provider(self) -> str:
        """The payment provider; orders to be refunded are paid where refunds are possible."""
        return "fapshi" if self.fate == "paid" else "stripe"


class Marketplace:
    """`grace` (seconds) is how long buyers may take to pay, `holding` when sellers are paid."""

    def __init__(
        self, layout: Layout, keys: DevKeys, count: int, *, grace: int, holding: int
    ) -> None:
        self._layout = layout
        self._grace, self._holding = grace, holding
        self._dice = random.Random(_SEED)  # noqa: S311 - the same scenario in each run
        self._http = {
            role: httpx.AsyncClient(
                headers={"Authorization": f"Bearer {keys.token(role)}"}, timeout=60
            )
            for role in ("viewer", "operator", "approver", "admin")
        }
        self.sellers = [f"seller-{number}" for number in range(_SELLERS)]
        self.bought = list(self._buyers(count))
        self.placed = self.paid = self.late = 0
        self._came_before = 0

    async def close(self) -> None:
        for http in self._http.values():
            await http.aclose()

    async def prepare(self) -> None:
        introduce(self._layout)
        self._came_before = await self._money()
        for number, seller in enumerate(self.sellers):
            body = {
                "reference": seller,
                "name": f"Seller {number}",
                "provider": "fapshi",
                "account": "payouts",
                "currency": _CURRENCY,
                "details": {"phone": f"6{number:08}"},
                "schedule": {"kind": "threshold"},
            }
            # The role that sets where money goes approves none of it.
            await self._call("admin", "POST", "payouts-api", "/v1/recipients", body)

    async def trade(self) -> None:
        """Place the orders, half of them under each rule for late payments."""
        for rule in ("refund", "reopen"):
            terms = {
                "currency": _CURRENCY,
                "grace_seconds": self._grace,
                "reminder_seconds": self._grace // 2,
                "holding_seconds": self._holding,
                "fee_basis_points": 1234,
                "late_payment": rule,
            }
            await self._call("admin", "PUT", "orders-api", "/v1/terms", terms)
            mine = iter([each for each in self.bought if each.rule == rule])

            async def work(mine: Iterator[BuyerScenario] = mine) -> None:
                for buyer in mine:
                    await self._buy(buyer)

            await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
        await self._pay_late()
        await self._refund()

    async def approve(self) -> None:
        """Approve the payouts whose amount requires a second person."""
        for payout in await self._all("payouts-api", "/v1/payouts", state="scheduled"):
            path = f"/v1/payouts/{payout['id']}/approve"
            body = {"reason": "the seller is known"}
            await self._call("approver", "POST", "payouts-api", path, body)

    async def settled(self) -> bool:
        """Return whether every order is final, and payouts are requested for all that is owed."""
        await self.approve()
        states = Counter(each["state"] for each in await self.orders())
        open_ = states["placed"] + states["awaiting_payment"] + states["paid"]
        refunds = await self._all("orders-api", "/v1/refunds")
        if open_ or any(each["state"] == "requested" for each in refunds):
            return False
        balances = await self._balances()
        if any(balances["pending"].values()) or any(
            each > 0 for each in balances["available"].values()
        ):
            return False  # below zero: sellers paid before a refund; no payout follows
        return all(
            each["owed"] == each["requested"] == -balances["platform"][each["seller"]]
            for each in await self._report()
        )

    async def checks(self) -> list[Check]:
        orders = {each["id"]: each for each in await self.orders()}
        refunds = await self._all("orders-api", "/v1/refunds")
        report = await self._report()
        balances = await self._balances()
        by_fate: dict[str, list[dict[str, Any]]] = {}
        for buyer in self.bought:
            by_fate.setdefault(f"{buyer.fate} {buyer.rule}", []).append(orders[buyer.order["id"]])
        never = [*by_fate["never refund"], *by_fate["never reopen"]]
        sold = [each for each in orders.values() if each["paid_at"] is not None]
        gross = sum(each["total"] for each in sold)
        back = sum(each["refunded"] for each in sold)
        came = await self._money_that_came()
        given_back = sum(each["amount"] for each in refunds)
        cancelled = [each for each in orders.values() if each["state"] == "cancelled"]
        late_back = by_fate.get("late refund", [])
        expected = {each["id"] for each in (*never, *late_back)}
        return [
            Check("orders", len(self.bought), len(orders)),
            Check("cancelled: those never paid, and those paid late", len(expected),
                  len(expected & {each["id"] for each in cancelled})),
            Check("cancelled though paid in time", 0, len(cancelled) - len(expected)),
            Check("late, by the rule given back", len(late_back), sum(
                each["order_id"] in {one["id"] for one in late_back} for each in refunds)),
            Check("late, by the rule opened again", len(by_fate.get("late reopen", [])), sum(
                each["paid_at"] is not None for each in by_fate.get("late reopen", []))),
            Check("refunds that did not succeed", 0,
                  sum(each["state"] != "succeeded" for each in refunds)),
            Check("payments: providers' books, and orders plus what went back",
                  came, gross + given_back - back),
            Check("refunds: Stripe's books, and ours", await self._refunded_at_stripe(),
                  given_back),
            Check("sold less refunds, and what sellers and platform have", gross - back,
                  sum(each["owed"] + each["fees"] for each in report)),
            Check("owed to sellers, and earned at payouts",
                  sum(each["owed"] for each in report), -sum(balances["platform"].values())),
            Check("paid to sellers: their balances, and the provider's books",
                  await self._paid_at_fapshi(), sum(balances["paid"].values())),
            Check("owed to sellers, and paid to them less what they owe since a refund",
                  sum(each["owed"] for each in report),
                  sum(balances["paid"].values()) + sum(balances["available"].values())),
        ]  # fmt: skip

    async def orders(self) -> list[dict[str, Any]]:
        return await self._all("orders-api", "/v1/orders")

    async def _buy(self, buyer: BuyerScenario) -> None:
        reference = f"buyer-{self._dice.randrange(10**9)}"
        wanted = {
            "reference": f"O-{self._dice.randrange(10**12)}",
            "buyer": {"reference": reference, "email": f"{reference}@example.com"},
            "lines": buyer.lines,
        }
        buyer.order = await self._call("operator", "POST", "orders-api", "/v1/orders", wanted)
        self.placed += 1
        if buyer.fate not in {"never", "late"}:
            await self._pay(buyer, await self._start(buyer))
            self.paid += 1
        elif buyer.fate == "late":
            buyer.order["payment"] = await self._start(buyer)

    async def _start(self, buyer: BuyerScenario) -> dict[str, Any]:
        wanted = {"provider": buyer.provider, "return_url": "https://shop.example.com/"}
        path = f"/v1/orders/{buyer.order['id']}/payments"
        return await self._call("operator", "POST", "orders-api", path, wanted)

    async def _pay(self, buyer: BuyerScenario, payment: dict[str, Any]) -> None:
        """Pay as the buyer; the checkout has the provider's name of the payment."""
        path = f"/v1/checkouts/{payment['id']}"
        checkout = await self._call("viewer", "GET", "subscription-api", path)
        if buyer.provider == "stripe":
            path = f"/_config/checkout/{checkout['reference']}/pay"
            await self._call("viewer", "POST", "sandbox-stripe", path)
        else:
            path = f"/_payments/fapshi/_{checkout['reference']}"
            await self._call("viewer", "PUT", "sandbox-providers", path, {"standing": "succeeded"})

    async def _pay_late(self) -> None:
        for buyer in self.bought:
            if buyer.fate == "late":
                await self._until(buyer, "cancelled")
                await self._pay(buyer, buyer.order["payment"])
                if buyer.rule == "reopen":
                    await self._until(buyer, "paid")
                self.late += 1

    async def _refund(self) -> None:
        for buyer in self.bought:
            if buyer.fate not in {"partly", "wholly"}:
                continue
            await self._until(buyer, "paid", "fulfilled", "completed")
            amount = {"amount": buyer.order["total"] // 3} if buyer.fate == "partly" else {}
            path = f"/v1/orders/{buyer.order['id']}/refunds"
            wanted = {"reason": "returned", **amount}
            await self._call("operator", "POST", "orders-api", path, wanted)
        for order in await self._all("orders-api", "/v1/orders", state="paid"):
            await self._call("operator", "POST", "orders-api", f"/v1/orders/{order['id']}/fulfil")

    async def _until(self, buyer: BuyerScenario, *states: str) -> None:
        started = time.monotonic()
        path = f"/v1/orders/{buyer.order['id']}"
        while True:
            found = await self._call("viewer", "GET", "orders-api", path)
            if found["state"] in states or time.monotonic() - started > _PATIENCE_SECONDS:
                return
            await asyncio.sleep(0.2)

    async def _call(
        self, role: str, method: str, process: str, path: str, body: Any = None
    ) -> dict[str, Any]:
        """Call again, with the same key, until a service responds."""
        url = f"{self._layout.url(process)}{path}"
        headers = {"Idempotency-Key": f"demo-{self._dice.getrandbits(80):x}"}
        while True:
            with suppress(httpx.TransportError):
                answer = await self._http[role].request(method, url, json=body, headers=headers)
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    found: dict[str, Any] = answer.raise_for_status().json()
                    return found
            await asyncio.sleep(0.3)

    async def _all(self, process: str, path: str, **filters: str) -> list[dict[str, Any]]:
        return await everything(
            self._http["viewer"], f"{self._layout.url(process)}{path}", **filters
        )

    async def _report(self) -> list[dict[str, Any]]:
        query = "since=2020-01-01T00:00:00Z&until=2100-01-01T00:00:00Z"
        found: Any = await self._call("viewer", "GET", "orders-api", f"/v1/reports/sellers?{query}")
        return list(found)

    async def _balances(self) -> dict[str, Counter[str]]:
        """Return balances by ledger account and recipient."""
        found: dict[str, Counter[str]] = {}
        for each in await self._all("payouts-api", "/v1/recipients"):
            path = f"/v1/recipients/{each['id']}"
            recipient = await self._call("viewer", "GET", "payouts-api", path)
            for balance in recipient["balances"]:
                for name in ("platform", "available", "pending", "paid"):
                    counter = found.setdefault(name, Counter())
                    counter[each["reference"]] += balance[name]
        return found

    async def _money_that_came(self) -> int:
        return await self._money() - self._came_before

    async def _money(self) -> int:
        money = await self._call("viewer", "GET", "sandbox-providers", "/_money")
        mobile = sum(
            each["amount"]
            for each in money["payments"]
            if (each["provider"], each["standing"]) == ("fapshi", "succeeded")
        )
        return int(mobile) + sum((await self._stripe("payment_intents")).values())

    async def _refunded_at_stripe(self) -> int:
        return sum((await self._stripe("refunds")).values())

    async def _stripe(self, what: str) -> Counter[str]:
        """Return the amounts of the account's objects, by id."""
        found: Counter[str] = Counter()
        last = ""
        url = f"{self._layout.url('sandbox-stripe')}/v1/{what}"
        async with httpx.AsyncClient(auth=("sk_test_books", ""), timeout=60) as http:
            while True:
                after = {"starting_after": last} if last else {}
                answer = await http.get(url, params={"limit": "100", **after})
                page = answer.raise_for_status().json()
                for each in page["data"]:
                    if each["status"] == "succeeded":
                        found[each["id"]] = each["amount"]
                if not page["has_more"]:
                    return found
                last = page["data"][-1]["id"]

    async def _paid_at_fapshi(self) -> int:
        books = await self._call("viewer", "GET", "sandbox-providers", "/_payouts")
        return sum(each["amount"] for each in books["transfers"] if each["status"] == "paid")

    def _buyers(self, count: int) -> Iterator[BuyerScenario]:
        shares = {"never": _NEVER, "late": _LATE, "partly": _PARTLY, "wholly": _WHOLLY}
        # At least two of each, one under each rule.
        fates = [
            fate for fate, share in shares.items() for _ in range(max(2, round(count * share)))
        ]
        fates += ["paid"] * (count - len(fates))
        for number, fate in enumerate(fates):
            lines = [
                {
                    "seller": self._dice.choice(self.sellers),
                    "description": "a thing",
                    "quantity": self._dice.randint(1, 3),
                    "unit_price": self._dice.randint(101, 20_000),
                }
                for _ in range(self._dice.randint(1, 4))
            ]
            yield BuyerScenario(fate, lines, ("refund", "reopen")[number % 2])


def main(count: int) -> int:
    console = Console()
    with scene(
        "demo-orders",
        PROCESSES,
        console,
        replicas={"orders-worker": 2, "subscription-worker": 2, "payouts-worker": 2},
        extra_env=ENVIRONMENT,
        payout_options={"not_found_grace_seconds": 2, "rate_per_second": 500},
    ) as (system, keys):
        market = Marketplace(system.layout, keys, count, grace=60, holding=20)
        return asyncio.run(_play(market, system, console))


async def _play(market: Marketplace, system: Any, console: Console) -> int:
    await market.prepare()
    dice = random.Random(_SEED)  # noqa: S311
    trouble = [
        asyncio.create_task(kill_workers(system, worker, dice, _WORKER_DIES_EVERY_SECONDS))
        for worker in ("orders-worker", "subscription-worker")
    ]
    started = time.monotonic()
    trading = asyncio.create_task(market.trade())
    try:
        with Bars(console, lambda: _counts(market)) as show:
            while not (trading.done() and await market.settled()):
                if trading.done():
                    trading.result()
                    if time.monotonic() - started > len(market.bought) / 10 + _PATIENCE_SECONDS:
                        break
                show()
                await asyncio.sleep(1)
    finally:
        for task in (*trouble, trading):
            task.cancel()
        await asyncio.gather(*trouble, trading, return_exceptions=True)
    seconds = time.monotonic() - started
    checks = await market.checks()
    title = f"{len(market.bought)} orders in {seconds:.0f} s (amounts in {_CURRENCY})"
    console.print(table_of_checks(title, checks))
    killed = sum(process.restarts for process in system.processes.values())
    console.print(f"workers killed and restarted: {killed}")
    await market.close()
    return 0 if all(check.ok for check in checks) else 1


def _counts(market: Marketplace) -> dict[str, tuple[int, int | None]]:
    due = sum(each.fate not in {"never", "late"} for each in market.bought)
    return {
        "placed": (market.placed, len(market.bought)),
        "paid in time": (market.paid, due),
        "paid late": (market.late, sum(each.fate == "late" for each in market.bought)),
    }

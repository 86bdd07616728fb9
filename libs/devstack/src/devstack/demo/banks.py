"""`make demo-banks`: users link their banks, whose data changes while it is read, whose webhooks
get lost, and whose provider rate-limits and fails, while workers are killed; then the bank's
records and ours are compared row by row."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console

from devstack.demo.base import everything
from devstack.demo.environment import kill_workers, scene
from devstack.demo.report import Bars, Check, table_of_checks
from devstack.endpoints import PLAID_CLIENT
from devstack.processes.system import System, introduce_providers
from devstack.tokens import DevKeys

_PROCESSES = ("sandbox-providers", "webhook-gateway", "bank-sync-api", "bank-sync-worker")
_INSTITUTIONS = ("ins_109508", "ins_109509", "ins_109510")
_AT_ONCE = 8
_HAPPENINGS = 4  # at each bank, after it was linked
_PER_MINUTE = 6  # syncs that Plaid allows an item
_LOST = 0.3
_FAILING = 0.05
_WORKER_DIES_EVERY_SECONDS = 3.0
_PATIENCE_SECONDS = 300
_SEED = 50
# A day in ten seconds, so that the sweep recovers what no webhook reported.
_ENVIRONMENT = {
    "BANK_SYNC_MAX_AGE_HOURS": str(10 / 3600),
    "BANKS_INTERVAL_SECONDS": "1",
    "BANK_SYNC_LEASE_SECONDS": "5",
    "RETRY_LADDER": "1s,2s,5s,10s,20s",
}


@dataclass
class Tally:
    """Rows at the bank, our rows equal to them, and our rows that the bank does not have."""

    there: Counter[str] = field(default_factory=Counter)
    equal: Counter[str] = field(default_factory=Counter)
    foreign: int = 0

    @property
    def settled(self) -> bool:
        return self.there == self.equal and self.foreign == 0


def main(items: int, transactions: int) -> int:
    console = Console()
    with scene(
        "demo-banks",
        _PROCESSES,
        console,
        replicas={"bank-sync-worker": 2},
        extra_env=_ENVIRONMENT,
        # More than the sandbox allows, so that it has to refuse calls.
        bank_options={"item_syncs": 60, "circuit_reset_seconds": 2},
    ) as (system, keys):
        return asyncio.run(_play(Banks(system, keys), console, items, transactions))


async def _play(banks: Banks, console: Console, items: int, transactions: int) -> int:
    tally = Tally()
    await banks.prepare()
    started = time.monotonic()
    trouble = asyncio.create_task(banks.kill_workers())
    living = asyncio.create_task(banks.live(items, transactions))
    try:
        with Bars(console, lambda: _counts(tally)) as show:
            while time.monotonic() - started < _PATIENCE_SECONDS:
                if living.done():
                    living.result()
                    tally = await banks.compare()
                show()
                if living.done() and tally.settled:
                    break
                await asyncio.sleep(1)
    finally:
        trouble.cancel()
        await asyncio.gather(trouble, living, return_exceptions=True)
    await banks.behave_well()
    tally = await banks.compare()
    seconds = time.monotonic() - started
    given_up = await banks.given_up()
    checks = [
        Check("banks linked", items, tally.equal["items"]),
        Check("accounts and balances equal", tally.there["accounts"], tally.equal["accounts"]),
        Check("transactions equal", tally.there["transactions"], tally.equal["transactions"]),
        Check("transactions that the bank does not have", 0, tally.foreign),
    ]
    console.print(table_of_checks(f"{items} banks in {seconds:.0f} s", checks))
    console.print(await banks.story())
    for error in given_up[:10]:
        console.print(f"given up, and done by the sweep: {error}")
    return 0 if all(check.ok for check in checks) else 1


def _counts(tally: Tally) -> dict[str, tuple[int, int | None]]:
    return {"equal": (tally.equal["transactions"], tally.there["transactions"] or None)}


class Banks:
    def __init__(self, system: System, keys: DevKeys) -> None:
        self._system = system
        self._layout = system.layout
        self._dice = random.Random(_SEED)  # noqa: S311 - the same scenario in each run
        token = keys.token("operator")
        self._http = httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60)
        self._items: list[str] = []
        self._happened: Counter[str] = Counter()

    async def prepare(self) -> None:
        introduce_providers(self._layout)
        await self._sandbox("PUT", "/_delivery", drop=_LOST, duplicate=0.1, delay_seconds=1)
        await self._sandbox("PUT", "/plaid/_limits", per_minute=_PER_MINUTE)

    async def behave_well(self) -> None:
        await self._sandbox("PUT", "/_behaviour", mode="well")
        await self._sandbox("PUT", "/plaid/_limits", per_minute=None)

    async def live(self, items: int, transactions: int) -> None:
        """Link banks as their users, and change the data there."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> None:
            async with gate:
                (made,) = await self._sandbox(
                    "POST",
                    "/plaid/_items",
                    client_id=PLAID_CLIENT,
                    transactions=transactions,
                    institution_id=_INSTITUTIONS[number % len(_INSTITUTIONS)],
                )
                body = {"public_token": made["public_token"], "user": f"user-{number}"}
                answer = await self._http.post(self._api("items"), json=body)
                answer.raise_for_status()
                self._items.append(made["item_id"])

        async with asyncio.TaskGroup() as users:
            for number in range(items):
                users.create_task(one(number))
        await self._sandbox("PUT", "/_behaviour", mode="fail", rate=_FAILING)
        for _ in range(_HAPPENINGS):
            for item in self._items:
                await self._happen(item)
            await asyncio.sleep(2)

    async def _happen(self, item: str) -> None:
        what = {
            "add": self._dice.randint(0, 6),
            "modify": self._dice.randint(0, 6),
            "remove": self._dice.randint(0, 3),
            "post": self._dice.randint(0, 4),
        }
        # Enough changes for two pages, with a change in between.
        if self._dice.random() < 0.2:
            what |= {"add": 600, "mutate": 1}
        self._happened.update(what)
        await self._sandbox("POST", f"/plaid/_items/{item}/happenings", **what)

    async def kill_workers(self) -> None:
        worker, every = "bank-sync-worker", _WORKER_DIES_EVERY_SECONDS
        await kill_workers(self._system, worker, self._dice, every)

    async def compare(self) -> Tally:
        """Compare both sides' records, row by row."""
        tally = Tally()
        theirs = (await self._sandbox("GET", "/plaid/_books"))["items"]
        linked = {each["item_id"] for each in await self._all("items")}
        tally.there["items"] = len(self._items)
        tally.equal["items"] = len(linked & {*self._items})
        transactions = await self._all("transactions")  # their accounts exist by then
        accounts = {each["id"]: each for each in await self._all("accounts")}
        ours = {each["account_id"]: each for each in accounts.values()}
        for item in self._items:
            for id_, account in theirs[item]["accounts"].items():
                tally.there["accounts"] += 1
                mine = ours.get(id_)
                tally.equal["accounts"] += mine is not None and _same_account(mine, account)
        known: dict[str, Any] = {}
        for item in self._items:
            known |= theirs[item]["transactions"]
        tally.there["transactions"] = len(known)
        for mine in transactions:
            transaction = known.get(mine["transaction_id"])
            if transaction is None:
                tally.foreign += 1
            else:
                account = accounts[mine["account"]]["account_id"]
                tally.equal["transactions"] += _same_transaction(mine, account, transaction)
        return tally

    async def given_up(self) -> Sequence[str]:
        """Return the errors of the failed syncs that no later sync took over."""
        errors = [str(each["error"]) for each in await self._all("syncs", status="failed")]
        return [each for each in errors if "took over" not in each]

    async def story(self) -> str:
        syncs = await self._all("syncs")
        books = await self._sandbox("GET", "/plaid/_books")
        calls = (await self._sandbox("GET", "/_money"))["callbacks"]
        killed = sum(process.restarts for process in self._system.processes.values())
        anew = sum(each["restarts"] for each in syncs)
        again = sum(each["attempts"] > 1 for each in syncs)
        return (
            f"{len(syncs)} syncs, {anew} times begun anew because the data changed meanwhile, "
            f"{again} tried more than once; {books['rate_limited']} calls rate limited; "
            f"{calls.get('plaid dropped', 0)} webhooks lost, {calls.get('plaid doubled', 0)} "
            f"doubled; workers killed and restarted: {killed}"
        )

    async def _all(self, what: str, **filters: str) -> list[dict[str, Any]]:
        return await everything(self._http, self._api(what), **filters)

    def _api(self, what: str) -> str:
        return f"{self._layout.url('bank-sync-api')}/v1/{what}"

    async def _sandbox(self, method: str, path: str, **body: Any) -> Any:
        url = f"{self._layout.url('sandbox-providers')}{path}"
        answer = await self._http.request(method, url, json=body or None)
        return answer.raise_for_status().json()


def _same_account(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    figures = theirs["balances"]
    return (mine["name"], mine["current"], mine["available"], mine["currency"]) == (
        theirs["name"],
        _cents(figures["current"]),
        _cents(figures["available"]),
        figures["iso_currency_code"],
    )


def _same_transaction(mine: Mapping[str, Any], account: str, theirs: Mapping[str, Any]) -> bool:
    category = theirs["personal_finance_category"]
    return (
        account,
        mine["amount"],
        mine["currency"],
        mine["date"],
        mine["name"],
        mine["merchant"],
        mine["pending"],
        mine["pending_transaction_id"],
        mine["category"],
        mine["category_detailed"],
    ) == (
        theirs["account_id"],
        _cents(theirs["amount"]),
        theirs["iso_currency_code"],
        theirs["date"],
        theirs["name"],
        theirs["merchant_name"],
        theirs["pending"],
        theirs["pending_transaction_id"],
        category["primary"],
        category["detailed"],
    )


def _cents(figure: float) -> int:
    return round(figure * 100)

"""`make demo-payouts`: a payday over three providers with faults, while workers and broker are
killed; then the providers' records and ours are compared."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

from devstack.demo.environment import kill_workers, scene
from devstack.demo.payout_load import ENVIRONMENT, OPTIONS, PROVIDERS, Payday, Tally
from devstack.demo.report import Bars, Check, table_of_checks
from devstack.processes.system import System
from devstack.servers.rabbitmq import PrivateNode, broker_of_our_own

_PROCESSES = ("sandbox-providers", "webhook-gateway", "payouts-api", "payouts-worker")
_PATIENCE_SECONDS = 600
_WORKER_DIES_EVERY_SECONDS = 4.0
_BROKER_DIES_AFTER_SECONDS = (6.0, 20.0)
_SEED = 500


def main(count: int) -> int:
    console = Console()
    with (
        broker_of_our_own() as broker,
        scene(
            "demo-payouts",
            _PROCESSES,
            console,
            replicas={"payouts-worker": 2},
            extra_env=ENVIRONMENT,
            payout_options=OPTIONS,
        ) as (system, keys),
    ):
        if broker is None:
            console.print("the broker is not this demo's own: only workers are killed")
        payday = Payday(system.layout, keys, count, _SEED)
        return asyncio.run(_play(payday, system, broker, console))


async def _play(
    payday: Payday, system: System, broker: PrivateNode | None, console: Console
) -> int:
    states: dict[str, int] = {}
    await payday.prepare()
    killed: list[float] = []
    trouble = asyncio.create_task(_trouble(system, broker, killed))
    started = time.monotonic()
    ordering = asyncio.create_task(payday.order())
    try:
        with Bars(console, lambda: _counts(states, payday.count)) as show:
            while not (ordering.done() and await payday.settled()):
                if ordering.done():
                    ordering.result()
                if time.monotonic() - started > _PATIENCE_SECONDS:
                    break
                states.update(dict.fromkeys(states, 0) | dict(await payday.states()))
                show()
                await asyncio.sleep(0.5)
    finally:
        trouble.cancel()
        await asyncio.gather(trouble, ordering, return_exceptions=True)
    seconds = time.monotonic() - started
    tally = await payday.tally()
    whole = _verify(system)
    checks = _checks(payday, tally, whole=whole)
    console.print(_by_provider(payday, tally, await payday.calls()))
    console.print(table_of_checks(f"{payday.count} payouts in {seconds:.0f} s", checks))
    restarts = sum(process.restarts for process in system.processes.values())
    console.print(f"workers killed and restarted: {restarts}; broker killed: {len(killed)}")
    for line in tally.differing[:10]:
        console.print(f"[red]{line}")
    return 0 if all(check.ok for check in checks) else 1


def _counts(states: dict[str, int], whole: int) -> dict[str, tuple[int, int | None]]:
    settled = states.get("paid", 0) + states.get("returned", 0)
    return {"settled": (settled, whole), "unknown now": (states.get("unknown", 0), None)}


def _checks(payday: Payday, tally: Tally, *, whole: bool) -> list[Check]:
    checks = [
        Check("payouts ordered", payday.count, sum(tally.ordered.values())),
        Check(
            "paid, or paid and sent back",
            payday.count,
            sum(tally.paid.values()) + sum(tally.returned.values()),
        ),
        Check("paid twice", 0, len(tally.twice)),
        Check("forgotten", 0, len(tally.forgotten)),
        Check("said differently by the provider", 0, len(tally.differing)),
    ]
    for currency, (ours, theirs) in tally.amounts.items():
        checks.append(Check(f"{currency} paid (minor units)", theirs, ours))
    checks.append(Check("still pending in the ledger", 0, tally.pending))
    checks.append(Check("audit log and ledger whole", 1, int(whole)))
    return checks


def _by_provider(payday: Payday, tally: Tally, calls: object) -> Table:
    assert isinstance(calls, dict)
    table = Table(title="how the providers answered", caption="look-ups fail in the same shares")
    columns = ("", "ordered", "paid", "sent back", "lost answers", "500s", "rate limited")
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for provider in PROVIDERS:
        bad = [
            calls.get(f"{provider} lost", 0),
            calls.get(f"{provider} error", 0) + calls.get(f"{provider} error_after", 0),
            calls.get(f"{provider} rate_limited", 0),
        ]
        row = [tally.ordered[provider], tally.paid[provider], tally.returned[provider], *bad]
        table.add_row(provider, *map(str, row))
    return table


def _verify(system: System) -> bool:
    """Verify the ledger as an operator does."""
    command = [sys.executable, "-m", "payouts.cli.main", "verify-ledger"]
    env = {**os.environ, "DATABASE_URL": system.layout.databases["payouts"]}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, end="")
    return done.returncode == 0


async def _trouble(system: System, broker: PrivateNode | None, killed: list[float]) -> None:
    async def brokers() -> None:
        for seconds in _BROKER_DIES_AFTER_SECONDS:
            await asyncio.sleep(seconds)
            if broker is not None:
                killed.append(time.monotonic())
                broker.kill()
                await asyncio.to_thread(broker.start)

    dice = random.Random(_SEED)  # noqa: S311 - the same scenario in each run
    dying = kill_workers(system, "payouts-worker", dice, _WORKER_DIES_EVERY_SECONDS)
    await asyncio.gather(dying, brokers())

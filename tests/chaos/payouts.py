"""The payouts scenario: a payday at faulty providers while processes and servers are killed."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from chaos.expected_effects import LADDER, Verdict
from chaos.infrastructure import Ground, environment
from devstack.demo.payout_load import ENVIRONMENT, OPTIONS, Payday, Tally
from devstack.processes.process import Process
from devstack.processes.stack import Stack
from devstack.processes.system import System, create_databases, migrate, plan
from devstack.tokens import DevKeys

_PROCESSES = ("sandbox-providers", "webhook-gateway", "payouts-api", "payouts-worker")
_PATIENCE_SECONDS = 900
_RECIPIENTS = 300
_KILL_SECONDS = 3


def run(on: Ground, count: int, *, seed: int, logs: Path) -> tuple[Verdict, int, float]:
    """Return the verdict, the number of restarts, and the seconds from the end of the faults to the
    end of all payouts."""
    dice = random.Random(seed)
    servers = [
        ("RABBITMQ_URL", on.node.address.url),
        ("RABBITMQ_MANAGEMENT_URL", on.node.address.management_url),
        ("POSTGRES_URL", on.database.url),
    ]
    name = f"chaos_{uuid4().hex[:8]}"
    with ExitStack() as exit_:
        with environment(servers):
            stack = exit_.enter_context(Stack())
        keys = DevKeys(logs / "keys")
        layout = plan(
            stack,
            virtual_host=name,
            databases=create_databases(stack, f"{name}_"),
            keys=keys,
            prefer_ports=False,
            extra_env={"RETRY_LADDER": LADDER, **ENVIRONMENT},
            payout_options=OPTIONS,
        )
        migrate(layout, logs)
        system = System(stack, layout, logs)
        exit_.callback(system.stop)
        system.start(_PROCESSES)
        for process in ("payouts-worker", "webhook-gateway"):
            spec = layout.spec(process, replica=1)
            system.start_one(spec, restart=True).wait_ready()
        payday = Payday(layout, keys, count, seed)
        tally, recovery = asyncio.run(_play(payday, system, on, dice))
        restarts = sum(process.restarts for process in system.processes.values())
    return _verdict(count, tally), restarts, recovery


async def _play(
    payday: Payday, system: System, on: Ground, dice: random.Random
) -> tuple[Tally, float]:
    await payday.prepare(_RECIPIENTS)
    ordering = asyncio.create_task(payday.order())
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for share in (0.1, 0.3, 0.5, 0.7):
        while await _settled_share(payday) < share and time.monotonic() < deadline:
            await asyncio.sleep(_KILL_SECONDS)
            _kill(system, dice)
        await asyncio.to_thread(_break, on, share)
    await ordering
    quiet = time.monotonic()
    while not await payday.settled() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(1)
    return await payday.tally(), time.monotonic() - quiet


async def _settled_share(payday: Payday) -> float:
    states = await payday.states()
    return (states.get("paid", 0) + states.get("returned", 0)) / payday.count


def _break(on: Ground, share: float) -> None:
    if share in {0.1, 0.5}:
        on.node.kill()
        on.node.start()
    else:
        on.database.stop_at_once()
        on.database.start()


def _kill(system: System, dice: random.Random) -> None:
    killable: list[Process] = [
        process
        for name, process in system.processes.items()
        if name.startswith(("payouts-", "webhook-gateway")) and process.is_running()
    ]
    if killable:
        dice.choice(killable).kill(signal.SIGKILL)


def _verdict(count: int, tally: Tally) -> Verdict:
    settled = sum(tally.paid.values()) + sum(tally.returned.values())
    verdict = Verdict(effects=settled)
    verdict.missing = [f"payout {each}" for each in tally.forgotten]
    verdict.doubled = [f"payout {each}" for each in tally.twice]
    verdict.unexplained = list(tally.differing)
    for currency, (ours, theirs) in tally.amounts.items():
        if ours != theirs:
            verdict.unexplained.append(f"{currency}: {ours} in the ledger, {theirs} there")
    if settled != count:
        verdict.waiting["payouts"] = count - settled
    return verdict

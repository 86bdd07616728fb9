"""`make demo`: scenarios of the systems that Paybus replaces, on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import aio_pika
from rich.console import Console

from devstack.demo import all_systems
from devstack.demo.base import Stage
from devstack.demo.environment import scene
from devstack.demo.mobile_money import MobileMoneyShop
from devstack.demo.organizations import Directory
from devstack.processes.system import PROCESSES, System, introduce
from devstack.tokens import DevKeys

OPTIONS: Final[Mapping[str, Any]] = {
    "extra_env": all_systems.ENVIRONMENT,
    "payout_options": all_systems.PAYOUT_OPTIONS,
}


def main(subscriptions: int, checkouts: int) -> int:
    console = Console()
    with scene("demo", PROCESSES, console, **OPTIONS) as (system, keys):
        for name, process in system.processes.items():
            console.print(f"  {name:24} pid {process.pid}")
        came_true = asyncio.run(play(system, keys, console, subscriptions, checkouts))
        restarted = {n: p.restarts for n, p in system.processes.items() if p.restarts}
        if restarted:
            console.print(f"restarted: {restarted}")
    return 0 if came_true else 1


async def play(
    system: System, keys: DevKeys, console: Console, subscriptions: int, checkouts: int
) -> bool:
    """Run all scenarios in a scene with `OPTIONS`. Return whether all checks passed."""
    introduce(system.layout)
    connection = await aio_pika.connect(system.layout.rabbitmq_url)
    async with connection:
        stage = Stage(system, connection, keys, console)
        await stage.listen()
        came_true = await Directory(stage, subscriptions).play()
        came_true &= await MobileMoneyShop(stage, checkouts).play()
    came_true &= await all_systems.play(system, keys, console)
    return came_true

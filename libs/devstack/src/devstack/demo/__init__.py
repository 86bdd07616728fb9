"""`make demo`: the systems that Paybus replaces, played through on this machine."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time

import aio_pika
from rich.console import Console

from devstack.demo.directory import Directory
from devstack.demo.mobile_money import MobileMoneyShop
from devstack.demo.stage import Stage
from devstack.stack import PAYBUS, Stack
from devstack.system import PROCESSES, System, create_databases, introduce, migrate, plan
from devstack.tokens import DevKeys


def main(subscriptions: int, checkouts: int) -> int:
    # Progress goes to the terminal; the SDK's and the broker client's chatter does not.
    logging.disable(logging.CRITICAL)
    console = Console()
    logs = PAYBUS / "demo" / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    started = time.monotonic()
    with Stack() as stack:
        keys = DevKeys(PAYBUS / "keys")
        layout = plan(
            stack,
            virtual_host="demo",
            databases=create_databases(stack, "demo_"),
            keys=keys,
            prefer_ports=False,
        )
        migrate(layout, logs)
        system = System(stack, layout, logs)
        try:
            system.start(PROCESSES)
            introduce(layout)
            console.print(f"everything started in {time.monotonic() - started:.1f} s; logs: {logs}")
            for name, process in system.processes.items():
                console.print(f"  {name:24} pid {process.pid}")
            return asyncio.run(_play(system, keys, console, subscriptions, checkouts))
        finally:
            system.stop()


async def _play(
    system: System, keys: DevKeys, console: Console, subscriptions: int, checkouts: int
) -> int:
    connection = await aio_pika.connect(system.layout.rabbitmq_url)
    async with connection:
        stage = Stage(system, connection, keys, console)
        await stage.listen()
        came_true = await Directory(stage, subscriptions).play()
        came_true &= await MobileMoneyShop(stage, checkouts).play()
    restarted = {n: p.restarts for n, p in system.processes.items() if p.restarts}
    if restarted:
        console.print(f"restarted: {restarted}")
    return 0 if came_true else 1

"""The start of every demo: a system of its own, and workers that die."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from devstack.processes.stack import PAYBUS, Stack
from devstack.processes.system import System, create_databases, migrate, plan
from devstack.tokens import DevKeys


@contextmanager
def scene(
    name: str,
    processes: Sequence[str],
    console: Console,
    *,
    replicas: Mapping[str, int] | None = None,
    **options: Any,
) -> Iterator[tuple[System, DevKeys]]:
    """Run the processes on databases and a virtual host that start empty; they end with the block.
    `replicas` are the numbers of processes where several run; `options` are those of `plan`."""
    # The terminal displays progress, not the logs of the SDKs and the broker client.
    logging.disable(logging.CRITICAL)
    logs = PAYBUS / name / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    started = time.monotonic()
    with Stack() as stack:
        keys = DevKeys(PAYBUS / "keys")
        layout = plan(
            stack,
            virtual_host=name,
            databases=create_databases(stack, f"{name.replace('-', '_')}_"),
            keys=keys,
            prefer_ports=False,
            own_logins="operations-worker" in processes,
            **options,
        )
        migrate(layout, logs)
        system = System(stack, layout, logs)
        try:
            system.start(processes)
            for process, count in (replicas or {}).items():
                for replica in range(1, count):
                    spec = layout.spec(process, replica=replica)
                    system.start_one(spec, restart=True).wait_ready()
            console.print(f"everything started in {time.monotonic() - started:.1f} s; logs: {logs}")
            yield system, keys
        finally:
            system.stop()


async def kill_workers(system: System, worker: str, dice: random.Random, every: float) -> None:
    """SIGKILL one of the worker's replicas every `every` seconds; each is started again."""
    while True:
        await asyncio.sleep(every)
        running = [
            process
            for name, process in system.processes.items()
            if name.startswith(worker) and process.is_running()
        ]
        if running:
            dice.choice(running).kill(signal.SIGKILL)

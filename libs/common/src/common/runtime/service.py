"""Runtime of a service's role: background tasks, HTTP server, and graceful shutdown on SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import uvicorn
import uvloop

from common.db import key_rotation
from common.db.key_rotation import RotationSettings, Sealing
from common.errors import describe
from common.http.server_protocol import BoundedHeads
from common.observability import logging, loop_lag, metrics, tracing
from common.observability.logging import get_logger
from common.observability.redaction import Redactor
from common.security.encryption import new_key
from common.settings import DatabaseSettings, HttpSettings, SettingsT, load_or_exit, secrets_of

log = get_logger(__name__)

# Loading creates objects that stay, and a batch creates thousands that reference counting alone
# frees. With the defaults, an eighth of the startup time and a tenth of a worker's time go into
# scanning them.
gc.set_threshold(50_000, 20, 50)


# Longer than a proxy retains an idle connection (ingress-nginx: 60 s). The side that closes first
# may do so while the other one sends, and a proxy does not resend a call that fails like that.
_KEEP_ALIVE_SECONDS = 75


class Task(Protocol):
    """Background task beside the HTTP server: a consumer, the relay, the scheduler."""

    async def run(self) -> None: ...

    def stop(self) -> None:
        """Finish the current work; `run` then returns."""


@dataclass(frozen=True)
class RoleProcess:
    """Parts of a role. `relays` are stopped last: they publish what `tasks` committed.

    Resources on the role's `AsyncExitStack` outlive all of them.
    """

    app: Asgi
    tasks: Sequence[Task] = ()
    relays: Sequence[Task] = ()


@dataclass(frozen=True)
class RoleContext:
    """Objects that the runtime passes to a role's wiring."""

    redact: Redactor
    resources: AsyncExitStack


Asgi = Callable[[Any, Any, Any], Awaitable[None]]
Wire = Callable[[Any, RoleContext], Awaitable[RoleProcess]]


@dataclass(frozen=True)
class Role:
    """Role of a service. `wire` gets the role's settings, read and validated."""

    settings: type[HttpSettings]
    wire: Wire


def main(
    name: str,
    roles: Mapping[str, Role],
    *,
    migrations: Path | None = None,
    sealing: Sealing | None = None,
) -> NoReturn:
    """Run `python -m <service> <role>`: the one entry point of every service.

    With `migrations`, the package that contains them, there is also a role `migrate`, which brings
    the database up to date and exits. With `sealing` there are `generate-key`, which prints a key
    for ENCRYPTION_KEYS, and `rotate-keys`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name.replace('-', '_')}")
    more = [
        *(["migrate"] if migrations else []),
        *(["generate-key", "rotate-keys"] if sealing else []),
    ]
    parser.add_argument("role", choices=[*roles, *more])
    role: str = parser.parse_args().role
    if role == "migrate":
        assert migrations is not None
        from common.db.migrations import upgrade  # noqa: PLC0415 - loads Alembic

        upgrade(_begin(name, role, DatabaseSettings)[0], migrations)
        sys.exit(0)
    if role == "generate-key":
        print(new_key())
        sys.exit(0)
    if role == "rotate-keys":
        assert sealing is not None
        sys.exit(key_rotation.run(_begin(name, role, RotationSettings)[0], sealing))
    loaded, redact = _begin(name, role, roles[role].settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_serve(loaded, roles[role].wire, redact)))


def exit_with_error(sentence: str) -> NoReturn:
    """Exit with status 2 because of a setting that only the role itself can check."""
    print(f"{sentence}.", file=sys.stderr)
    sys.exit(2)


def _begin(name: str, role: str, settings: type[SettingsT]) -> tuple[SettingsT, Redactor]:
    loaded = load_or_exit(settings)
    redact = Redactor(secrets_of(loaded))
    logging.configure(service=name, role=role, level=loaded.log_level, redact=redact)
    metrics.watch_files(loaded)
    try:
        atexit.register(tracing.configure(name, role))
    except ValueError as error:
        exit_with_error(str(error))
    return loaded, redact


async def _serve(settings: HttpSettings, wire: Wire, redact: Redactor) -> int:
    """Run until SIGTERM or SIGINT (status 0), or until a task fails (status 1)."""
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, asked_to_stop.set)
    listening = _listen(settings.http_host, settings.http_port)
    async with AsyncExitStack() as resources:
        running = await wire(settings, RoleContext(redact, resources))
        server = _Server(
            uvicorn.Config(
                running.app,
                loop="none",
                http=BoundedHeads,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=int(settings.shutdown_grace_seconds),
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            )
        )
        gc.collect()
        gc.freeze()
        beating = asyncio.create_task(loop_lag.beat(), name="heartbeat")
        http = asyncio.create_task(server.serve([listening]), name="http")
        tasks = _start(running.tasks)
        relays = _start(running.relays)
        log.info("process_started", pid=os.getpid(), port=listening.getsockname()[1])
        waiting = asyncio.create_task(asked_to_stop.wait())
        await asyncio.wait({waiting, http, *tasks, *relays}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        status = _report_failures({http, *tasks, *relays})
        log.info("process_stopping", shutdown_grace_seconds=settings.shutdown_grace_seconds)
        started = time.monotonic()
        # HTTP last: health and metrics stay available while the others finish.
        deadline = started + settings.shutdown_grace_seconds
        await _drain(tasks, deadline)
        await _drain(relays, deadline)
        server.should_exit = True
        beating.cancel()
        await asyncio.gather(http, beating, return_exceptions=True)
        log.info("process_stopped", after_seconds=round(time.monotonic() - started, 3))
    return status


def _start(tasks: Sequence[Task]) -> dict[asyncio.Task[None], Task]:
    return {asyncio.create_task(task.run(), name=type(task).__name__): task for task in tasks}


async def _drain(tasks: Mapping[asyncio.Task[None], Task], deadline: float) -> None:
    for task in tasks.values():
        task.stop()
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=max(0.1, deadline - time.monotonic()))
    for unfinished in late:
        log.warning("shutdown_messages_requeued", task=unfinished.get_name())
        unfinished.cancel()
    await asyncio.gather(*late, return_exceptions=True)


def _report_failures(tasks: set[asyncio.Task[None]]) -> int:
    failed = [task for task in tasks if task.done() and task.exception() is not None]
    for task in failed:
        error = task.exception()
        assert error is not None
        log.error(
            "background_task_failed", task=task.get_name(), error=describe(error), exc_info=error
        )
    return 1 if failed else 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        exit_with_error(f"HTTP_PORT: can't listen on {host}:{port}: {error.strerror}")
    return listening


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are ours: tasks are drained before the server stops

"""Starts a process by forking one that has already imported its libraries.

`make test` starts some two hundred processes, and more than half of the cost of each is importing
FastAPI, SQLAlchemy and the like. A fork of a warm parent runs the same `python -m` module with the
same arguments, environment and signals; only third-party libraries are loaded in advance, so its
own modules are imported, and its metrics registered, as usual.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_LIBRARIES = [
    "aio_pika",
    "alembic.command",
    "cryptography.fernet",
    "fastapi",
    "httpx",
    "jwt",
    "opentelemetry.sdk.trace",
    "prometheus_client",
    "psycopg",
    "pydantic_settings",
    "plaid.api.plaid_api",
    "redis.asyncio",
    "rich.table",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.ext.asyncio",
    "stripe",
    "structlog",
    "tenacity",
    "typer",
    "uvicorn",
]


class WarmProcess:
    """The part of `subprocess.Popen`'s interface that a keeper of processes uses."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        *,
        errors: Path | None = None,
    ) -> None:
        """Start the process. Its output is appended to `log`, its errors to `errors` if given."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_LIBRARIES)
        files = (os.fspath(log), os.fspath(errors or log))
        self._process: ForkServerProcess = context.Process(
            target=_become, args=(module, tuple(arguments), dict(env), files)
        )
        self._process.start()
        # The exit status arrives once, by a pipe: the first reader stores it for the others.
        self._reading = threading.Lock()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        with self._reading:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            connection.wait([self._process.sentinel], timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return status

    def send_signal(self, how: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended; its status follows
                os.kill(self.pid, how)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    module: str, arguments: Sequence[str], env: Mapping[str, str], *, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` to its end and return its output, like `subprocess.run`."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder) / "stdout", Path(folder) / "stderr"
        process = WarmProcess(module, arguments, env, out, errors=errors)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(
            [module, *arguments], status, out.read_text(), errors.read_text()
        )


def _become(
    module: str, arguments: Sequence[str], env: Mapping[str, str], files: tuple[str, str]
) -> None:
    os.setsid()
    appending = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for target, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, appending, 0o644), target)
    sys.stdout.reconfigure(line_buffering=True, write_through=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

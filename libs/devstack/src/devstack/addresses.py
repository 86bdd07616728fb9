"""Addresses of the broker and the database, and the search for free ports."""

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
    """The development stack cannot start; the message is one sentence with the remedy."""


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
        """Return the environment from which `*_from_environment` read these servers."""
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
    """Return the URL with another path: a virtual host of a broker, a database of a server."""
    return urlunsplit(urlsplit(url)._replace(path="/" + quote(path, safe="")))


def with_login(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))


def with_port(url: str, port: int) -> str:
    """Return the URL with another port of this machine: that of a proxy in front of the server."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{port}"))


def free_ports(count: int) -> list[int]:
    """Return distinct loopback ports on which no process listens now; from the range in
    PAYBUS_PORTS, such as 20000-21999, where several stacks start concurrently."""
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
    """Return whether this process may use the documented ports. Only one process on the machine
    may, until it ends: two that start concurrently would both find them free."""
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
    """Return whether that process, and no other, listens on the loopback port. Without /proc to
    check, it is assumed."""
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
    """Return `port` if it is free on loopback, or else a free one: two copies can run."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return free_ports(1)[0]
    return port

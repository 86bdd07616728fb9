"""Where the broker and the database are, and how free ports are found."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
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


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def preferred_port(port: int) -> int:
    """`port` if it is free on loopback, else any free one: two copies run side by side."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return free_ports(1)[0]
    return port

"""What scenarios stand on: a broker and a database server of our own, which may be broken."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg

from devstack import children
from devstack.addresses import DevstackError, free_ports
from devstack.postgres import Postgres
from devstack.rabbitmq import PrivateNode, find_server, start_epmd
from support.waiting import until

_PASSWORD = "chaos"


class Database:
    """A PostgreSQL that can be stopped as a crash would stop it."""

    def __init__(self, state: Path) -> None:
        self.port = free_ports(1)[0]
        self._server = Postgres(state, self.port, _PASSWORD)
        self._server.start()

    @property
    def url(self) -> str:
        return self._server.url

    def stop_at_once(self) -> None:
        """Immediate mode: no checkpoint, recovery from the log at the next start."""
        self._server.stop(keep_data=False)

    def start(self) -> None:
        self._server.start()

    def end(self) -> None:
        self._server.stop(keep_data=False)

    def backends(self, database_like: str) -> list[int]:
        """The process ids that serve connections to these databases."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname LIKE %s", [database_like]
            )
            return [row[0] for row in rows]

    def drop_connections(self, database_like: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE %s",
                [database_like],
            )


class Cluster:
    """Three RabbitMQ nodes on this machine."""

    def __init__(self, server: Path, state: Path) -> None:
        names = [f"paybus{number}" for number in (1, 2, 3)]
        epmd_port = free_ports(1)[0]
        state.mkdir(parents=True)
        self._epmd = start_epmd(server, epmd_port, state / "epmd.log")
        self.nodes = [
            PrivateNode(
                server, state / name, _PASSWORD, name=name, cluster=names, epmd_port=epmd_port
            )
            for name in names
        ]
        for node in self.nodes:
            node.start()
        until(lambda: self._running() == len(names), what="three nodes are a cluster", seconds=60)

    def leader(self, virtual_host: str, queue: str) -> PrivateNode:
        """The node that leads a queue now."""
        url = f"{self._management()}/api/queues/{virtual_host}/{queue}"
        name = httpx.get(url, timeout=10).raise_for_status().json()["leader"]
        return next(node for node in self.nodes if node.name == name)

    def end(self) -> None:
        for node in self.nodes:
            node.stop(keep_data=False)
        children.stop(self._epmd, signal.SIGKILL, 5)

    def _running(self) -> int:
        answer = httpx.get(f"{self._management()}/api/nodes", timeout=10)
        nodes = answer.json() if answer.is_success else []
        return sum(bool(node.get("running")) for node in nodes)

    def _management(self) -> str:
        for node in self.nodes:
            try:
                httpx.get(node.address.management_url, timeout=2)
            except httpx.TransportError:
                continue
            return node.address.management_url
        raise DevstackError("no node of the cluster answers")


class Ground:
    def __init__(self, state: Path) -> None:
        server = find_server()
        if server is None:
            raise DevstackError("chaos needs a `rabbitmq-server` on this machine to kill")
        self._server = server
        self._state = state
        self.database = Database(state / "postgres")
        self.node = PrivateNode(server, state / "rabbitmq", _PASSWORD)
        self.node.start()

    def cluster(self) -> Cluster:
        return Cluster(self._server, self._state / "cluster")

    def end(self) -> None:
        self.node.stop(keep_data=False)
        self.database.end()


@contextmanager
def ground() -> Iterator[Ground]:
    with tempfile.TemporaryDirectory(prefix="paybus-chaos-") as folder:
        Path(folder).chmod(0o711)  # root's PostgreSQL runs as another user
        made = Ground(Path(folder))
        try:
            yield made
        finally:
            made.end()


@contextmanager
def environment(names: Sequence[tuple[str, str]]) -> Iterator[None]:
    """For a `Stack` that shall use our servers."""
    before = {name: os.environ.get(name) for name, _ in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

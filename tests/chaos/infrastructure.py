"""The infrastructure of scenarios: a private broker and database server, which may be broken."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import httpx
import psycopg

from chaos.network import Links
from devstack.addresses import DevstackError, free_ports, with_port
from devstack.servers.postgres import Postgres
from devstack.servers.rabbitmq import PrivateNode, find_server, install_server
from support.proxy import Line, Proxy
from support.waiting import trouble_lasts, until

_PASSWORD = "chaos"
# Erlang detects a silent node after this time here, plus or minus a quarter.
_SILENCE_SECONDS = 8


class Database:
    """A PostgreSQL server that can be stopped as by a crash."""

    def __init__(self, state: Path) -> None:
        self.port = free_ports(1)[0]
        self._server = Postgres(state, self.port, _PASSWORD)
        self._server.start()

    @property
    def url(self) -> str:
        return self._server.url

    def stop_at_once(self) -> None:
        """Stop in immediate mode: no checkpoint, recovery from the log at the next start."""
        self._server.stop(keep_data=False)

    def start(self) -> None:
        self._server.start()

    def end(self) -> None:
        self._server.stop(keep_data=False)

    def backends(self, database_like: str) -> list[int]:
        """Return the process ids that serve connections to these databases."""
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


class Pair:
    """A primary and its synchronous standby behind one address, which leads to the primary."""

    def __init__(self, state: Path) -> None:
        ports = free_ports(2)
        self._primary, self._standby = (
            Postgres(state / name, port, _PASSWORD)
            for name, port in zip(("one", "other"), ports, strict=True)
        )
        self._primary.start()
        self._proxy = Proxy([self._primary.port])
        self._follow()

    @property
    def url(self) -> str:
        return with_port(self._primary.url, self._proxy.port)

    def fail_over(self, *, after: float) -> None:
        """Crash the primary, promote its standby `after` seconds later, and make the old primary
        the new standby."""
        self._primary.stop(keep_data=False)
        trouble_lasts(after)
        self._primary, self._standby = self._standby, self._primary
        self._ask("ALTER SYSTEM SET synchronous_standby_names = ''")
        self._ask("SELECT pg_promote()")
        self._proxy.lead_to([self._primary.port])
        self._follow()

    def end(self) -> None:
        self._proxy.close()
        for server in (self._standby, self._primary):
            server.stop(keep_data=False)

    def _follow(self) -> None:
        self._standby.follow(self._primary.url)
        self._ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._ask("SELECT pg_reload_conf()")
        until(
            lambda: self._ask("SELECT sync_state FROM pg_stat_replication") == "sync",
            what="the standby has all that the primary confirms",
        )

    def _ask(self, query: LiteralString) -> Any:
        with psycopg.connect(self._primary.url, autocommit=True) as connection:
            cursor = connection.execute(query)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None


class Cluster:
    """Three RabbitMQ nodes on this machine, and the lines between them."""

    def __init__(self, server: Path, state: Path) -> None:
        names = [f"paybus{number}" for number in (1, 2, 3)]
        self._links = Links(names)
        self.nodes = [
            PrivateNode(
                server,
                state / name,
                _PASSWORD,
                name=name,
                cluster=names,
                epmd_port=self._links.epmd_port(name),
                silence=_SILENCE_SECONDS,
            )
            for name in names
        ]
        self._links.connect(self.nodes)
        for node in self.nodes:
            node.start()
        self.wait_complete()

    def partition(self, line: Line, *sides: Sequence[int]) -> None:
        """Partition the cluster; sides are numbers of nodes, from 1."""
        self._links.partition(line, *([f"paybus{number}" for number in side] for side in sides))

    def heal(self) -> None:
        self._links.heal()
        self.wait_complete()

    def wait_complete(self) -> None:
        """Wait until each node reports three running nodes; a node runs before it responds."""
        until(
            lambda: all(self._running(each) == len(self.nodes) for each in self.nodes),
            what="three nodes are a cluster",
            seconds=120,
        )

    def restart_each(self) -> None:
        """Restart the nodes one by one, so that two of three always run."""
        for node in self.nodes:
            node.kill()
            node.start()
            self.wait_complete()

    def leader(self, virtual_host: str, queue: str) -> PrivateNode:
        """Return the node that currently leads a queue."""
        url = f"{self._management()}/api/queues/{virtual_host}/{queue}"
        name = httpx.get(url, timeout=10).raise_for_status().json()["leader"]
        return next(node for node in self.nodes if node.name == name)

    def end(self) -> None:
        for node in self.nodes:
            node.stop(keep_data=False)
        self._links.close()

    def _running(self, asked: PrivateNode) -> int:
        with suppress(httpx.TransportError):
            answer = httpx.get(f"{asked.address.management_url}/api/nodes", timeout=10)
            if answer.is_success:
                return sum(bool(node.get("running")) for node in answer.json())
        return 0

    def _management(self) -> str:
        """Return a reachable management URL. Raises `DevstackError` if no node responds."""
        for node in self.nodes:
            with suppress(httpx.TransportError):
                httpx.get(node.address.management_url, timeout=2)
                return node.address.management_url
        raise DevstackError("no node of the cluster answers")


class Ground:
    def __init__(self, state: Path) -> None:
        # Not a container, and not the broker of RABBITMQ_URL, because it will be killed.
        server = find_server() or install_server()
        self._server = server
        self._state = state
        self.database = Database(state / "postgres")
        self.node = PrivateNode(server, state / "rabbitmq", _PASSWORD)
        self.node.start()

    def cluster(self) -> Cluster:
        return Cluster(self._server, self._state / f"cluster-{uuid4().hex[:8]}")

    def pair(self) -> Pair:
        return Pair(self._state / f"pair-{uuid4().hex[:8]}")

    def end(self) -> None:
        self.node.stop(keep_data=False)
        self.database.end()


@contextmanager
def ground() -> Iterator[Ground]:
    with tempfile.TemporaryDirectory(prefix="paybus-chaos-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL started by root runs as another user
        made = Ground(Path(folder))
        try:
            yield made
        finally:
            made.end()


@contextmanager
def environment(names: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Set environment variables, so that a `Stack` uses our servers."""
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

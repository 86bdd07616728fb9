"""The parent's handle on a running broker and database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
import psycopg
from psycopg import sql

from common.contracts import logins
from common.contracts.retry_ladder import RetryLadder
from devstack.addresses import Addresses, DevstackError, RabbitMQ, with_login, with_path
from devstack.processes.supervisor import lock
from devstack.servers.postgres import state_root

PROJECT = Path(__file__).resolve().parents[5]
PAYBUS = PROJECT / ".paybus"


class Stack:
    """A RabbitMQ and a PostgreSQL, started on entry and stopped on exit or with this process.

    With `name` the data is retained for the next stack of that name; without one it is deleted.
    With `servers`, which another process has started, the stack starts and stops none of its own.
    Raises `DevstackError` with one sentence when a part is unavailable.
    """

    addresses: Addresses
    broker_pid: int | None

    def __init__(self, name: str | None = None, *, servers: Addresses | None = None) -> None:
        root = state_root(PAYBUS)
        self._keep_data = name is not None
        self._environment = dict(os.environ) | (servers.environment() if servers else {})
        _sweep(root / "ephemeral")
        self.state = root / name if name else root / "ephemeral" / uuid4().hex[:12]

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "devstack.processes.supervisor", str(self.state)]
        self._keeper = subprocess.Popen(
            command + (["--keep-data"] if self._keep_data else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            text=True,
            start_new_session=True,
        )
        self._pipe_lock = threading.Lock()
        assert self._keeper.stdout is not None
        try:
            line = self._keeper.stdout.readline()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        message = json.loads(line or '{"error": "the keeper process ended at its start"}')
        if "error" in message:
            self._keeper.communicate()
            raise DevstackError(message["error"])
        self.addresses = Addresses(RabbitMQ(**message["rabbitmq"]), message["postgres_url"])
        self.broker_pid = message["broker_pid"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._keeper.stdin is not None
        with self._pipe_lock:
            self._keeper.stdin.close()
        self._keeper.wait()
        assert self._keeper.stdout is not None
        self._keeper.stdout.close()

    def watch(self, pid: int) -> None:
        """Have the keeper stop this process too, if we die without doing so."""
        self._tell(f"watch {pid}")

    def forget(self, pid: int) -> None:
        self._tell(f"forget {pid}")

    def virtual_host(self, name: str) -> str:
        """Create a virtual host (if missing) and return its AMQP URL."""
        base = self.addresses.rabbitmq.management_url
        user = urlsplit(base).username or "guest"
        vhost = quote(name, safe="")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        # A broker that has just started responds before it can create virtual hosts.
        with httpx.Client(timeout=30, transport=httpx.HTTPTransport(retries=3)) as client:
            client.put(f"{base}/api/vhosts/{vhost}").raise_for_status()
            url = f"{base}/api/permissions/{vhost}/{quote(user, safe='')}"
            client.put(url, json=everything).raise_for_status()
        return with_path(self.addresses.rabbitmq.url, name)

    def logins(self, virtual_host: str, ladder: str) -> dict[str, str]:
        """Create a login at the broker for each service; return AMQP URLs by service. `ladder` is
        RETRY_LADDER. Passwords equal names: the broker listens on loopback and is ours alone."""
        passwords = {service: logins.name_of(service) for service in logins.PUBLISHES}
        waits = [rung.name for rung in RetryLadder.parse(ladder).rungs]
        url = f"{self.addresses.rabbitmq.management_url}/api/definitions"
        for each in logins.definitions(passwords, waits, virtual_host=virtual_host):
            httpx.post(url, json=each, timeout=30).raise_for_status()
        server = with_path(self.addresses.rabbitmq.url, virtual_host)
        return {
            service: with_login(server, logins.name_of(service), password)
            for service, password in passwords.items()
        }

    def delete_virtual_host(self, name: str) -> None:
        vhost = quote(name, safe="")
        httpx.delete(f"{self.addresses.rabbitmq.management_url}/api/vhosts/{vhost}", timeout=30)

    def database(self, name: str, *, owner: str | None = None, template: str = "template1") -> str:
        """Create a database and the role that owns it, if missing, and return that role's URL.

        A clone of a migrated `template` has the template's owner, who owns its tables.
        """
        owner = owner or name
        with psycopg.connect(self.addresses.postgres_url, autocommit=True) as connection:
            # The password equals the role's name: the server listens on loopback and is ours alone.
            if not _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", owner):
                create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
                connection.execute(create.format(sql.Identifier(owner), sql.Literal(owner)))
            if not _exists(connection, "SELECT 1 FROM pg_database WHERE datname = %s", name):
                create = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY file_copy")
                connection.execute(
                    create.format(
                        sql.Identifier(name), sql.Identifier(owner), sql.Identifier(template)
                    )
                )
        return database_url(self.addresses.postgres_url, name, user=owner)

    def drop_database(self, name: str) -> None:
        with psycopg.connect(self.addresses.postgres_url, autocommit=True) as connection:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(name)))

    def _tell(self, line: str) -> None:
        assert self._keeper.stdin is not None
        with self._pipe_lock:
            if not self._keeper.stdin.closed:
                self._keeper.stdin.write(line + "\n")
                self._keeper.stdin.flush()


def database_url(server: str, name: str, *, user: str) -> str:
    parts = urlsplit(server)
    return f"postgresql+psycopg://{user}:{user}@{parts.hostname}:{parts.port or 5432}/{name}"


def _exists(connection: psycopg.Connection, query: str, name: str) -> bool:
    return connection.execute(query, [name]).fetchone() is not None


def _sweep(ephemeral: Path) -> None:
    """Remove the data that a killed keeper left, recognised by its lock being free."""
    if not ephemeral.exists():
        return
    for marker in ephemeral.glob("*.lock"):
        state = marker.with_suffix("")
        with lock(state) as held:
            if held is not None:
                shutil.rmtree(state, ignore_errors=True)
                marker.unlink(missing_ok=True)

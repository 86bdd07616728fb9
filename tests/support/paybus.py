"""A Paybus for one test: a fresh virtual host, cloned databases, and the real processes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aio_pika
import httpx
import psycopg
from aio_pika.abc import AbstractIncomingMessage

from common.contracts import topology
from common.contracts.retry_ladder import RetryLadder
from common.messaging.connection import BrokerConnection
from common.messaging.topology_declarer import declaring
from devstack.addresses import with_port
from devstack.endpoints import SECRETS
from devstack.processes.process import run_once
from devstack.processes.stack import Stack
from devstack.processes.system import Layout, System, plan
from devstack.tokens import DevKeys
from devstack.webhook import signature, subscription_created
from support.proxy import Proxy

# The same five retry delays as in production, at a hundredth of the length or less.
SHORT_LADDER = "50ms,100ms,200ms,300ms,400ms"

_TAP = "tests.tap"


class Templates:
    """Databases that are migrated once, on first use, and cloned for each test. The directory
    `done` records which are migrated, for all test processes on the same servers."""

    def __init__(self, stack: Stack, keys: DevKeys, logs: Path, done: Path) -> None:
        self._stack = stack
        self._logs = logs
        self._done = done
        self._databases: dict[str, str] = {}
        self._layout = plan(
            stack, virtual_host="unused", databases=self._databases, keys=keys, prefer_ports=False
        )

    def clone(self, service: str, name: str) -> str:
        template = f"template_{service}"
        if service not in self._databases:
            with (self._done / template).open("a") as mark:
                fcntl.flock(mark, fcntl.LOCK_EX)
                self._databases[service] = self._stack.database(template)
                if mark.seek(0, os.SEEK_END) == 0:
                    run_once(self._layout.migration(service), self._logs)
                    mark.write("migrated")
        return self._stack.database(name, owner=template, template=template)


class Clones(dict[str, str]):
    """The databases of one Paybus, by service; each is cloned on first use."""

    def __init__(self, templates: Templates, prefix: str) -> None:
        super().__init__()
        self._templates = templates
        self._prefix = prefix

    def __missing__(self, service: str) -> str:
        self[service] = self._templates.clone(service, self.name(service))
        return self[service]

    def name(self, service: str) -> str:
        return f"{self._prefix}_{service}"


class Paybus:
    """A running Paybus; start its processes by name with `start`."""

    def __init__(self, stack: Stack, layout: Layout, keys: DevKeys, system: System) -> None:
        self.layout = layout
        self.system = system
        self.virtual_host = urlsplit(layout.rabbitmq_url).path[1:]
        self.management = stack.addresses.rabbitmq.management_url
        self._keys = keys
        self.http = httpx.Client(timeout=60)
        self._connections: dict[str, psycopg.Connection] = {}

    def start(self, *names: str) -> None:
        self.system.start(names, restart=False)

    def close(self) -> None:
        self.http.close()
        for service in list(self._connections):
            self.disconnect(service)
        self.system.stop()

    def send(self, webhook: Mapping[str, Any] | bytes, **headers: str) -> httpx.Response:
        """Send a webhook, signed unless a `Stripe-Signature` is given."""
        body = webhook if isinstance(webhook, bytes) else json.dumps(webhook).encode()
        signed = {"Stripe-Signature": signature(body, SECRETS["stripe"])}
        return self.call("stripe", body, signed | headers)

    def call(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        *,
        method: str = "POST",
    ) -> httpx.Response:
        """Call `/webhooks/{path}` as a provider."""
        url = f"{self.layout.url('webhook-gateway')}/webhooks/{path}"
        return self.http.request(method, url, content=body, headers=headers)

    def subscribe(self, **options: Any) -> str:
        """Send a new customer's active subscription; return the suffix of its ids."""
        number = uuid4().hex[:10]
        answer = self.send(subscription_created(number, **options))
        assert answer.status_code == 200, answer.text
        return number

    def api(
        self, method: str, service: str, path: str, *, role: str = "operator", **request: Any
    ) -> httpx.Response:
        tenant, subject = request.pop("tenant", "default"), request.pop("subject", None)
        token = self._keys.token(role, tenant=tenant, subject=subject)
        url = f"{self.layout.url(f'{service}-api')}{path}"
        headers = {"Authorization": f"Bearer {token}"} | request.pop("extra_headers", {})
        return self.http.request(method, url, headers=headers, **request)

    def token(self, role: str, *, tenant: str = "default", subject: str | None = None) -> str:
        return self._keys.token(role, tenant=tenant, subject=subject)

    def backend(self, **behaviour: Any) -> None:
        """Set the behaviour of the sandbox's backend API."""
        url = f"{self.layout.url('sandbox-backend')}/_behaviour"
        self.http.put(url, json=behaviour).raise_for_status()

    def books(self) -> dict[str, Any]:
        url = f"{self.layout.url('sandbox-backend')}/_books"
        books: dict[str, Any] = self.http.get(url).json()
        return books

    def sql(self, service: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a query on a cached connection, as most callers poll; reconnect if it was lost."""
        try:
            cursor = self._connection(service).execute(query, parameters or None)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            self.disconnect(service)
            cursor = self._connection(service).execute(query, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def disconnect(self, service: str) -> None:
        """Close the connection: PostgreSQL copies a database only while it has no connections."""
        if (connection := self._connections.pop(service, None)) is not None:
            connection.close()

    def _connection(self, service: str) -> psycopg.Connection:
        if service not in self._connections:
            url = self.layout.databases[service].replace("+psycopg", "")
            self._connections[service] = psycopg.connect(url, autocommit=True)
        return self._connections[service]

    def messages(self, queue: str, *, remove: bool = False) -> list[dict[str, Any]]:
        """Return the ready messages of a queue, each with `payload` and `headers`."""
        mode = "ack_requeue_false" if remove else "ack_requeue_true"
        answer = self.http.post(
            f"{self.management}/api/queues/{self.virtual_host}/{queue}/get",
            json={"count": 10_000, "ackmode": mode, "encoding": "auto"},
        )
        answer.raise_for_status()
        return [
            {"payload": each["payload"], "headers": each["properties"].get("headers", {})}
            for each in answer.json()
        ]

    def publish(self, queue: str, body: str, *, headers: Mapping[str, Any] | None = None) -> None:
        """Publish directly to a queue, as a replay does."""
        self.publish_to("amq.default", queue, body, headers=headers)

    def publish_to(
        self,
        exchange: str,
        routing_key: str,
        body: str,
        *,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        answer = self.http.post(
            f"{self.management}/api/exchanges/{self.virtual_host}/{exchange}/publish",
            json={
                "properties": {"delivery_mode": 2, "headers": dict(headers or {})},
                "routing_key": routing_key,
                "payload": body,
                "payload_encoding": "string",
            },
        )
        assert answer.json() == {"routed": True}, answer.text

    def depths(self) -> dict[str, int]:
        """Return the ready messages per queue and retry queue, as the broker counts them now: the
        management figures are some seconds old. Unacknowledged messages are not counted."""
        return asyncio.run(self._depths())

    def waiting(self) -> dict[str, int]:
        """Return the depths that are not 0, without the queues whose worker does not run here."""
        workers = {name.removesuffix("-worker") for name in self.system.processes}
        return {
            queue: count
            for queue, count in self.depths().items()
            if count and (queue.startswith("retry.") or queue.partition(".")[0] in workers)
        }

    async def _depths(self) -> dict[str, int]:
        names = [queue.name for queue in topology.QUEUES]
        names += [rung.queue for rung in RetryLadder.parse(SHORT_LADDER).rungs]
        connection = await aio_pika.connect(self.layout.rabbitmq_url)
        async with connection, connection.channel() as channel:
            declared = [await channel.declare_queue(name, passive=True) for name in names]
        return {queue.name: queue.declaration_result.message_count or 0 for queue in declared}

    def dead_letters(self) -> dict[str, int]:
        """Return the dead-letter queues that are not empty, with their counts."""
        dead = [queue.dead for queue in (*topology.QUEUES, topology.WEBHOOKS)]
        return {name: count for name in dead if (count := len(self.messages(name)))}

    def tap(self, exchange: str, pattern: str) -> None:
        """Copy matching publishes from now on for `tapped`: faster to read repeatedly than the
        journal, whose end is only recognizable by silence."""
        base = f"{self.management}/api"
        queue = {"durable": False, "arguments": {"x-queue-type": "classic"}}
        url = f"{base}/queues/{self.virtual_host}/{_TAP}"
        self.http.put(url, json=queue).raise_for_status()
        url = f"{base}/bindings/{self.virtual_host}/e/{exchange}/q/{_TAP}"
        self.http.post(url, json={"routing_key": pattern}).raise_for_status()

    def tapped(self) -> list[dict[str, Any]]:
        """Return the tapped events in the order of their arrival."""
        return [json.loads(each["payload"]) for each in self.messages(_TAP)]

    def journal(self) -> list[dict[str, Any]]:
        """Return every published event, oldest first."""
        return asyncio.run(self._journal())

    async def _journal(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        connection = await aio_pika.connect(self.layout.rabbitmq_url)
        async with connection, connection.channel() as channel:
            await channel.set_qos(prefetch_count=500)
            stream = await channel.get_queue(topology.JOURNAL, ensure=False)
            news = asyncio.Event()

            async def take(message: AbstractIncomingMessage) -> None:
                events.append(json.loads(message.body))
                await message.ack()
                news.set()

            await stream.consume(take, arguments={"x-stream-offset": "first"})
            with suppress(TimeoutError):
                while True:  # a stream has no end: read until it falls silent
                    news.clear()
                    await asyncio.wait_for(news.wait(), 1)
        return events

    def log(self, process: str) -> str:
        """Return everything that a process has logged so far."""
        return self.system.processes[process].log.read_text()

    def metric(self, process: str, name: str, **labels: str) -> float:
        """Return the sum of the samples with these labels; 0 if there are none yet."""
        text = self.http.get(f"{self.layout.url(process)}/metrics").text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
            and all(f'{k}="{v}"' in line for k, v in labels.items())
        )


def cut(paybus: Paybus, service: str, change: str) -> None:
    """Change the service's database (`ALTER DATABASE`), and terminate its connections."""
    base, _, name = paybus.layout.databases[service].replace("+psycopg", "").rpartition("/")
    name = name.partition("?")[0]
    with psycopg.connect(f"{base}/postgres", autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" {change}')
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )


@asynccontextmanager
async def connected(url: str, name: str = "test") -> AsyncIterator[BrokerConnection]:
    """Connect to a broker and declare the topology."""
    broker = BrokerConnection(url, name=name, on_connect=declaring(RetryLadder.parse(SHORT_LADDER)))
    await broker.start()
    await broker.channel(within=60)
    try:
        yield broker
    finally:
        await broker.close()


@contextmanager
def running(
    stack: Stack,
    templates: Templates,
    keys: DevKeys,
    logs: Path,
    names: Sequence[str] = (),
    *,
    rabbitmq_url: str | None = None,
    rabbitmq_by: Proxy | None = None,
    payout_options: Mapping[str, Any] | None = None,
    bank_options: Mapping[str, Any] | None = None,
    own_logins: bool = False,
    **extra_env: str,
) -> Iterator[Paybus]:
    """Run a Paybus with these processes; delete its virtual host and databases afterwards."""
    name = f"test_{uuid4().hex[:8]}"
    databases = Clones(templates, name)
    layout = plan(
        stack,
        virtual_host=name,
        databases=databases,
        keys=keys,
        prefer_ports=False,
        extra_env={"RETRY_LADDER": SHORT_LADDER} | extra_env,
        payout_options=payout_options,
        bank_options=bank_options,
        own_logins=own_logins,
    )
    if rabbitmq_url is not None:
        layout = replace(layout, rabbitmq_url=rabbitmq_url)
    if rabbitmq_by is not None:
        layout = replace(layout, rabbitmq_url=with_port(layout.rabbitmq_url, rabbitmq_by.port))
    paybus = Paybus(stack, layout, keys, System(stack, layout, logs / name))
    try:
        paybus.start(*names)
        yield paybus
    finally:
        paybus.close()
        stack.delete_virtual_host(name)
        for service in databases:
            stack.drop_database(databases.name(service))

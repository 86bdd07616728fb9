"""The two systems under measurement: how each is started, filled and watched."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import aio_pika
import httpx
import psycopg

from common.contracts.event import Event
from common.contracts.registry import lookup
from common.messaging.connection import BrokerConnection
from common.messaging.publisher import Publisher
from devstack import endpoints
from devstack.addresses import DevstackError, free_ports
from devstack.endpoints import SECRETS
from devstack.processes.process import Process, Spec, run_once
from devstack.processes.stack import PROJECT, Stack
from devstack.processes.system import System, create_databases, migrate, plan
from devstack.tokens import DevKeys
from devstack.webhook import subscription_created
from webhook_gateway.providers.base import Authentication
from webhook_gateway.providers.endpoint import Endpoint
from webhook_gateway.providers.endpoint_registry import make

_PATIENCE_SECONDS = 300
_PUBLISHED_AT_ONCE = 500
_TENANTS = 100


class Side:
    """`rows_per_event` is how far `_sequence` moves for each event that was taken in."""

    name: str
    queue: str
    rows_per_event = 2
    _sequence: str
    _subscriptions: str

    def __init__(self, stack: Stack, virtual_host_url: str, database_url: str) -> None:
        self._stack = stack
        self.rabbitmq_url = virtual_host_url
        self.virtual_host = urlsplit(virtual_host_url).path[1:]
        self._database_url = database_url.replace("+psycopg", "")
        self._database = psycopg.connect(self._database_url, autocommit=True)

    def taken_in(self) -> int:
        """How many outbox rows were ever written. A sequence tells without counting rows."""
        row = self._database.execute(
            f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {self._sequence}"  # noqa: S608
        ).fetchone()
        assert row is not None
        return int(row[0])

    def effects(self) -> int:
        return int(self._scalar(f"SELECT count(*) FROM {self._subscriptions}"))  # noqa: S608

    def commit_times(self) -> dict[str, float]:
        """When each subscription's row was committed (Unix time, seconds), by webhook."""
        rows = self._database.execute(
            "SELECT provider_subscription_id, "  # noqa: S608
            "extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 "
            f"FROM {self._subscriptions}"
        )
        return {name.removeprefix("sub_"): at for name, at in rows}

    def depth(self) -> int:
        return asyncio.run(_depth(self.rabbitmq_url, self.queue))

    def purge(self, queue: str | None = None) -> None:
        base = self._stack.addresses.rabbitmq.management_url
        url = (
            f"{base}/api/queues/{quote(self.virtual_host, safe='')}/{queue or self.queue}/contents"
        )
        httpx.delete(url, timeout=60).raise_for_status()

    def wait_taken_in(self, events: int, *, since: int) -> None:
        """Until so many more events were taken in than at `since` (a `taken_in`)."""
        wait(
            lambda: self.taken_in() - since >= events * self.rows_per_event,
            what=f"{self.name} takes in {events} events",
        )

    def _scalar(self, query: str) -> float:
        row = self._database.execute(query).fetchone()
        assert row is not None
        return float(row[0])


class Paybus(Side):
    name = "paybus"
    queue = "subscription.billing"
    _sequence = "outbox_position_seq"
    _subscriptions = "subscriptions"

    def __init__(self, stack: Stack, logs: Path) -> None:
        databases = create_databases(stack, f"bench_{uuid4().hex[:8]}_")
        self.layout = plan(
            stack,
            virtual_host=f"bench_{uuid4().hex[:8]}",
            databases=databases,
            keys=DevKeys(logs / "keys"),
            prefer_ports=False,
        )
        endpoints.write(self.layout.endpoints, _every_endpoint())
        migrate(self.layout, logs)
        super().__init__(stack, self.layout.rabbitmq_url, databases["subscription"])
        self.system = System(stack, self.layout, logs)
        self._stripe = make(Endpoint(provider="stripe", tenant="default", options={"mode": "test"}))
        self._provisioning_url = databases["provisioning"].replace("+psycopg", "")
        with self.process("webhook-gateway"):
            pass  # it has declared the topology

    @property
    def port(self) -> int:
        return self.layout.ports["webhook-gateway"]

    @contextmanager
    def process(self, name: str) -> Iterator[Process]:
        """One of Paybus's processes, ready when it is handed over, stopped afterwards."""
        started = self.system.start_one(self.layout.spec(name))
        started.wait_ready()
        try:
            yield started
        finally:
            started.stop()

    @contextmanager
    def gateway_with_one_endpoint(self) -> Iterator[int]:
        """Its port."""
        file = self.layout.endpoints.with_name("one-endpoint.toml")
        stripe = [each for each in _every_endpoint() if each["provider"] == "stripe"]
        endpoints.write(file, stripe[:1])
        spec = self.layout.spec("webhook-gateway", replica=1, ENDPOINTS_FILE=str(file))
        started = self.system.start_one(spec)
        started.wait_ready()
        try:
            yield int(spec.env["HTTP_PORT"])
        finally:
            started.stop()

    def fill(self, names: Sequence[str]) -> None:
        """Put events into the queue as fast as the broker takes them, and see them there."""
        before = self.depth()
        self.publish(names)
        wait(lambda: self.depth() >= before + len(names), what="the queue holds all of them")

    def publish(self, names: Sequence[str]) -> None:
        asyncio.run(self._publish(names))

    async def _publish(self, names: Sequence[str]) -> None:
        # Confirmed: without, a quorum queue may miss the last ones when the channel closes.
        async def nothing(*_: Any) -> None:
            pass

        broker = BrokerConnection(self.rabbitmq_url, name="bench", on_connect=nothing)
        await broker.start()
        publisher = Publisher(broker, timeout=30)
        for start in range(0, len(names), _PUBLISHED_AT_ONCE):
            events = [self._event(n) for n in names[start : start + _PUBLISHED_AT_ONCE]]
            outcomes = await publisher.publish_all(
                [(lookup(event.type).exchange, event.type, event.encode()) for event in events]
            )
            if failed := next((each for each in outcomes if each is not None), None):
                raise failed
        await broker.close()

    def _event(self, name: str) -> Event[Any]:
        (event,) = self._stripe.translate(_body(name), Authentication("signature"))
        return event

    def fill_outbox(self, count: int) -> None:
        event = self._event("relay")
        self._database.execute(
            "INSERT INTO outbox (exchange, routing_key, body) "
            "SELECT 'subscriptions', 'subscription.renewed', %s FROM generate_series(1, %s)",
            [event.encode(), count],
        )

    def outbox_rows(self) -> int:
        return int(self._scalar("SELECT count(*) FROM outbox"))

    def wait_relayed(self) -> None:
        wait(lambda: self.outbox_rows() == 0, what="the outbox is empty")

    def provisioned_times(self) -> dict[str, float]:
        """As `commit_times`, of the organizations."""
        customers = self._database.execute("SELECT id, provider_customer_id FROM customers")
        names = {id_: name.removeprefix("cus_") for id_, name in customers}
        with psycopg.connect(self._provisioning_url) as connection:
            rows = connection.execute(
                "SELECT customer_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 "
                "FROM integrations WHERE status = 'provisioned'"
            ).fetchall()
        return {names[customer]: at for customer, at in rows if customer in names}


class Peer(Side):
    name = "celery"
    queue = "webhooks"
    _sequence = "peer_outboxmessage_id_seq"
    _subscriptions = "peer_subscription"

    def __init__(self, stack: Stack, logs: Path) -> None:
        database = stack.database(f"bench_{uuid4().hex[:8]}_peer")
        url = stack.virtual_host(f"bench_{uuid4().hex[:8]}")
        super().__init__(stack, url, database)
        self._logs = logs
        self.port = free_ports(1)[0]
        self._env = {
            "PEER_DATABASE_URL": self._database_url,
            "RABBITMQ_URL": url,
            "STRIPE_WEBHOOK_SECRETS": SECRETS["stripe"],
            "PYTHONPATH": str(PROJECT),
            "DJANGO_SETTINGS_MODULE": "benchmarks.peer.settings",
        }
        run_once(Spec("peer-tables", "benchmarks.peer.create_tables", [], self._env), logs)

    @contextmanager
    def web(self) -> Iterator[Process]:
        arguments = ["--workers", "2", "--threads", "8", "--bind", f"127.0.0.1:{self.port}"]
        arguments += ["--keep-alive", "60", "--log-level", "warning", "benchmarks.peer.wsgi"]
        process = self._start(Spec("peer-web", "gunicorn", arguments, self._env))
        try:
            wait(lambda: _answers(self.port), what="gunicorn answers", seconds=60)
            yield process
        finally:
            process.stop()

    @contextmanager
    def worker(self) -> Iterator[Process]:
        arguments = ["-A", "benchmarks.peer.celery_app", "worker", "--concurrency", "2"]
        arguments += ["--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
        arguments += ["--without-heartbeat"]
        process = self._start(Spec("peer-worker", "celery", arguments, self._env))
        try:
            yield process
        finally:
            process.stop()

    def order_payouts(self, sandbox: str, count: int) -> None:
        """Rows that are due, and their tasks."""
        env = {**self._env, "PEER_STRIPE_URL": sandbox}
        arguments = ["--count", str(count)]
        run_once(Spec("peer-payouts", "benchmarks.peer.order_payouts", arguments, env), self._logs)
        self._sandbox = sandbox

    def paid(self) -> int:
        return int(self._scalar("SELECT count(*) FROM peer_payout WHERE status = 'paid'"))

    @contextmanager
    def payer(self) -> Iterator[Process]:
        """A worker whose processes mostly wait."""
        arguments = ["-A", "benchmarks.peer.celery_app", "worker", "--concurrency", "16"]
        arguments += ["--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
        arguments += ["--without-heartbeat", "--queues", "payouts"]
        env = {**self._env, "PEER_STRIPE_URL": self._sandbox}
        process = self._start(Spec("peer-payer", "celery", arguments, env))
        try:
            yield process
        finally:
            process.stop()

    def order_syncs(self, plaid: str, public_tokens: Sequence[str]) -> None:
        """A task for each item."""
        self._plaid = plaid
        tokens = list(public_tokens)
        run_once(Spec("peer-syncs", "benchmarks.peer.order_syncs", tokens, self._env), self._logs)

    def transactions(self) -> int:
        return int(self._scalar("SELECT count(*) FROM peer_banktransaction"))

    @contextmanager
    def banker(self) -> Iterator[Process]:
        arguments = ["-A", "benchmarks.peer.celery_app", "worker", "--concurrency", "2"]
        arguments += ["--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
        arguments += ["--without-heartbeat", "--queues", "banks"]
        env = {**self._env, "PEER_PLAID_URL": self._plaid}
        process = self._start(Spec("peer-banker", "celery", arguments, env))
        try:
            yield process
        finally:
            process.stop()

    def _start(self, spec: Spec) -> Process:
        return Process(spec, self._stack, self._logs)


def _every_endpoint() -> list[dict[str, Any]]:
    """Every provider for many tenants; the first tenant's have the usual names."""
    first = endpoints.development("http://127.0.0.1:9", "http://127.0.0.1:9")
    return [
        each if number == 0 else each | {"name": _name(each, number), "tenant": f"shop-{number}"}
        for number in range(_TENANTS)
        for each in first
    ]


def _name(endpoint: dict[str, Any], number: int) -> str:
    """A provider's endpoint for payouts stands beside its first one."""
    return f"shop-{number}" + ("-payouts" if "name" in endpoint else "")


def wait(condition: Callable[[], bool], *, what: str, seconds: float = _PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DevstackError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.005)


def resident_bytes(process: Process) -> int:
    """The process's memory now (VmRSS)."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise DevstackError(f"{process.spec.name} has no memory figure in /proc")


async def _depth(url: str, queue: str) -> int:
    connection = await aio_pika.connect(url)
    async with connection, connection.channel() as channel:
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


def _body(name: str) -> bytes:
    return json.dumps(subscription_created(name)).encode()


def _answers(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/none", timeout=5)
    except httpx.TransportError:
        return False
    return True

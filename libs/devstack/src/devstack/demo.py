"""`make demo`: a Stripe emulator's own signed webhooks, through to provisioned organizations.

Customers, plans and subscriptions are made with the official SDK; everything after that is Paybus.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aio_pika
import httpx
import stripe
from aio_pika.abc import AbstractIncomingMessage
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from common.contracts import registry, topology
from common.contracts.event import DecodeError, Event
from devstack.addresses import DevstackError
from devstack.endpoints import SECRETS
from devstack.stack import PAYBUS, Stack
from devstack.system import PROCESSES, System, create_databases, migrate, plan
from devstack.tokens import DevKeys

# Six webhooks each. The emulator, the SDK and all of Paybus share this machine's cores; faster than
# this the table would show the queue in front of the emulator.
_PER_SECOND = 20
_PATIENCE_SECONDS = 90  # without any progress; longer than a killed worker's lease and retry


@dataclass
class Seen:
    """What the demo heard on the exchanges, as any other consumer would."""

    webhooks: set[str] = field(default_factory=set)
    received: dict[str, datetime] = field(default_factory=dict)
    active: dict[str, float] = field(default_factory=dict)
    provisioned: dict[str, float] = field(default_factory=dict)
    last_news: float = field(default_factory=time.monotonic)
    broken: str | None = None

    def hear(self, event: Event[Any]) -> None:
        self.last_news = time.monotonic()
        if event.source.startswith("/webhook-gateway"):
            self.webhooks.add(event.id)
            self.received[event.id] = event.recordedtime
            return
        webhook = self.received.get(event.correlationid)
        if webhook is None:
            return
        seconds = (event.recordedtime - webhook).total_seconds()
        if event.type == "subscription.activated":
            self.active.setdefault(event.subject, seconds)
        elif event.type == "organization.provisioned":
            self.provisioned.setdefault(event.subject, seconds)
        elif event.type == "organization.failed":
            self.broken = f"organization {event.subject} failed: {event.data.error}"


@dataclass(frozen=True)
class Check:
    what: str
    expected: int
    found: int

    @property
    def ok(self) -> bool:
        return self.expected == self.found


def main(subscriptions: int) -> int:
    # Progress goes to the terminal; the SDK's and the broker client's chatter does not.
    logging.disable(logging.CRITICAL)
    console = Console()
    logs = PAYBUS / "demo" / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    started = time.monotonic()
    with Stack() as stack:
        layout = plan(
            stack,
            virtual_host="demo",
            databases=create_databases(stack, "demo_"),
            keys=DevKeys(PAYBUS / "keys"),
            prefer_ports=False,
        )
        migrate(layout, logs)
        system = System(stack, layout, logs)
        try:
            system.start(PROCESSES)
            console.print(f"everything started in {time.monotonic() - started:.1f} s; logs: {logs}")
            for name, process in system.processes.items():
                console.print(f"  {name:20} pid {process.pid}")
            demo = _Demo(system, stack, subscriptions, console)
            return asyncio.run(demo.run())
        finally:
            system.stop()


class _Demo:
    def __init__(self, system: System, stack: Stack, wanted: int, console: Console) -> None:
        self._system = system
        self._stack = stack
        self._wanted = wanted
        self._console = console
        self._seen = Seen()
        self._created = 0

    async def run(self) -> int:
        connection = await aio_pika.connect(self._system.layout.rabbitmq_url)
        async with connection:
            await self._listen(connection)
            stripe_webhooks = {"url": f"{self._url('webhook-gateway')}/webhooks/stripe"}
            async with httpx.AsyncClient() as http:
                (
                    await http.post(
                        f"{self._url('sandbox-stripe')}/_config/webhooks/paybus",
                        json=stripe_webhooks | {"secret": SECRETS["stripe"]},
                    )
                ).raise_for_status()
            shop = asyncio.create_task(self._shop())
            try:
                with self._progress() as show:
                    await self._until_done(shop, show)
            except DevstackError as error:
                self._console.print(f"[red]{error}")
            finally:
                shop.cancel()
                await asyncio.gather(shop, return_exceptions=True)
            await self._settle()
            checks = [*await self._checks(), *await self._broker_checks(connection)]
        return self._report(checks)

    async def _listen(self, connection: aio_pika.abc.AbstractConnection) -> None:
        channel = await connection.channel()
        tap = await channel.declare_queue(exclusive=True)
        for exchange in topology.DOMAIN_EXCHANGES:
            await tap.bind(exchange, "#")

        async def hear(message: AbstractIncomingMessage) -> None:
            try:
                self._seen.hear(registry.decode(message.body))
            except DecodeError as error:
                self._seen.broken = str(error)

        await tap.consume(hear, no_ack=True)

    async def _shop(self) -> None:
        client = stripe.StripeClient(
            "sk_test_paybus",
            base_addresses={"api": self._url("sandbox-stripe")},
            http_client=stripe.HTTPXClient(),
            max_network_retries=2,
        )
        plan = {"id": "starter", "amount": 1500, "currency": "eur", "interval": "month"}
        await client.v1.plans.create_async({**plan, "product": {"name": "Starter"}})  # type: ignore[typeddict-item]

        async def subscribe(number: int) -> None:
            await _subscribe(client, number)
            self._created += 1

        async with asyncio.TaskGroup() as customers:
            for number in range(self._wanted):
                customers.create_task(subscribe(number))
                await asyncio.sleep(1 / _PER_SECOND)

    async def _until_done(self, shop: asyncio.Task[None], show: Callable[[], None]) -> None:
        while len(self._seen.provisioned) < self._wanted:
            await asyncio.sleep(0.1)
            show()
            if shop.done() and shop.exception() is not None:
                raise DevstackError(f"the Stripe emulator failed: {shop.exception()}")
            if self._seen.broken is not None:
                raise DevstackError(self._seen.broken)
            if time.monotonic() - self._seen.last_news > _PATIENCE_SECONDS:
                raise DevstackError(f"nothing happened for {_PATIENCE_SECONDS} s")
        await shop
        show()

    async def _settle(self) -> None:
        """localstripe sends its last webhooks a second after the calls; let them come in."""
        while (quiet := time.monotonic() - self._seen.last_news) < 2:  # noqa: ASYNC110
            await asyncio.sleep(2 - quiet)

    def _progress(self) -> AbstractContextManager[Callable[[], None]]:
        return _bars(self._console, self._wanted, self._counts)

    def _counts(self) -> dict[str, int]:
        return {
            "created in Stripe": self._created,
            "webhooks accepted": len(self._seen.webhooks),
            "active subscriptions": len(self._seen.active),
            "provisioned organizations": len(self._seen.provisioned),
        }

    async def _checks(self) -> list[Check]:
        """Asked of the services' own APIs and of the back end's books."""
        token = DevKeys(PAYBUS / "keys").token("viewer")
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(headers=headers, timeout=30) as http:
            subscriptions = f"{self._url('subscription-api')}/v1/subscriptions"
            integrations = f"{self._url('provisioning-api')}/v1/integrations"
            active = await _count(http, subscriptions, status="active")
            provisioned = await _count(http, integrations, status="provisioned")
            books = (await http.get(f"{self._url('sandbox-backend')}/_books")).json()
        doubles = sum(count - 1 for count in books["created"].values())
        admins = [len(users) for users in books["users"].values()]
        return [
            Check("created in Stripe", self._wanted, self._created),
            Check("active subscriptions", self._wanted, active),
            Check("provisioned integrations", self._wanted, provisioned),
            Check("organizations in the back end", self._wanted, len(books["organizations"])),
            Check("organizations created twice", 0, doubles),
            Check("admin users", self._wanted, sum(admins)),
        ]

    async def _broker_checks(self, connection: aio_pika.abc.AbstractConnection) -> list[Check]:
        channel = await connection.channel()
        waiting = dead = 0
        for queue in (*topology.QUEUES, topology.WEBHOOKS):
            if queue in topology.QUEUES:
                waiting += await _depth(channel, queue.name)
            dead += await _depth(channel, queue.dead)
        return [Check("messages still waiting", 0, waiting), Check("dead letters", 0, dead)]

    def _report(self, checks: list[Check]) -> int:
        counts = Table(title=f"{self._wanted} subscriptions, {len(self._seen.webhooks)} webhooks")
        for column in ("", "expected", "found", ""):
            counts.add_column(column, justify="left" if not column else "right")
        for check in checks:
            mark = (
                "[green]ok"
                if check.ok
                else "[red]MISSING"
                if check.found < check.expected
                else "[red]TOO MANY"
            )
            counts.add_row(check.what, str(check.expected), str(check.found), mark)
        self._console.print(counts)
        times = Table(
            title=f"from the webhook's arrival, at {_PER_SECOND} new subscriptions a second"
        )
        for column in ("to", "p50", "p99"):
            times.add_column(column, justify="right" if column != "to" else "left")
        for what, seconds in (
            ("active subscription", self._seen.active),
            ("provisioned organization", self._seen.provisioned),
        ):
            if seconds:
                ordered = sorted(seconds.values())
                p99 = ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]
                p50 = statistics.median(ordered)
                times.add_row(what, f"{p50 * 1000:.0f} ms", f"{p99 * 1000:.0f} ms")
        self._console.print(times)
        restarted = {n: p.restarts for n, p in self._system.processes.items() if p.restarts}
        if restarted:
            self._console.print(f"restarted: {restarted}")
        return 0 if all(check.ok for check in checks) else 1

    def _url(self, process: str) -> str:
        return self._system.layout.url(process)


async def _subscribe(client: stripe.StripeClient, number: int) -> None:
    """What a shop does for a new customer."""
    email = f"owner-{number}@example.com"
    name = f"Organization {number}"
    customer = await client.v1.customers.create_async({"email": email, "name": name})
    # A test card's number, which the SDK's types leave out because only browsers should send one.
    card: Any = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}
    method = await client.v1.payment_methods.create_async({"type": "card", "card": card})
    await client.v1.payment_methods.attach_async(method.id, {"customer": customer.id})
    await client.v1.customers.update_async(
        customer.id, {"invoice_settings": {"default_payment_method": method.id}}
    )
    await client.v1.subscriptions.create_async(
        {
            "customer": customer.id,
            "items": [{"plan": "starter"}],
            "metadata": {"email": email, "organization": name},
        }
    )


async def _count(http: httpx.AsyncClient, url: str, **filters: str) -> int:
    count, cursor = 0, None
    while True:
        params = {**filters, "limit": "200", **({"cursor": cursor} if cursor else {})}
        answer = (await http.get(url, params=params)).raise_for_status().json()
        count += len(answer["items"])
        cursor = answer["next_cursor"]
        if cursor is None:
            return count


async def _depth(channel: aio_pika.abc.AbstractChannel, name: str) -> int:
    queue = await channel.declare_queue(name, passive=True)
    return queue.declaration_result.message_count or 0


class _bars:
    """Progress bars on a terminal; a line now and then where there is none."""

    def __init__(self, console: Console, total: int, counts: Callable[[], dict[str, int]]) -> None:
        self._counts = counts
        self._console = console
        self._last_line = 0.0
        self._progress = Progress(
            TextColumn("{task.description:26}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bars = {
            name: self._progress.add_task(name, total=None if "webhooks" in name else total)
            for name in counts()
        }

    def __enter__(self) -> Callable[[], None]:
        self._progress.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self) -> None:
        counts = self._counts()
        for name, count in counts.items():
            self._progress.update(self._bars[name], completed=count)
        if self._progress.disable and time.monotonic() - self._last_line > 2:
            self._last_line = time.monotonic()
            line = ", ".join(f"{count} {name}" for name, count in counts.items())
            self._console.print(line, highlight=False)

"""Shared parts of the demos: the running system, its APIs, and the events received from it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aio_pika
import httpx
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from rich.console import Console
from rich.table import Table
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_fixed

from common.contracts import registry, topology
from common.contracts.event import DecodeError, Event
from devstack.addresses import DevstackError
from devstack.demo.report import Bars, Check
from devstack.processes.system import System
from devstack.tokens import DevKeys

_PATIENCE_SECONDS = 90  # without any event; longer than a killed worker's lease and retry


@dataclass
class Stage:
    """The system under demonstration. `listeners` receive every event on the exchanges, like any
    other consumer."""

    system: System
    connection: AbstractConnection
    keys: DevKeys
    console: Console
    listeners: list[Callable[[Event[Any]], None]] = field(default_factory=list)
    last_news: float = field(default_factory=time.monotonic)
    broken: str | None = None

    def url(self, process: str) -> str:
        return self.system.layout.url(process)

    def client(self, role: str) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.keys.token(role)}"}
        return httpx.AsyncClient(headers=headers, timeout=30)

    async def listen(self) -> None:
        channel = await self.connection.channel()
        tap = await channel.declare_queue(exclusive=True)
        for exchange in topology.DOMAIN_EXCHANGES:
            await tap.bind(exchange, "#")
        await tap.consume(self._hear, no_ack=True)

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        try:
            event = registry.decode(message.body)
        except DecodeError as error:
            self.broken = str(error)
            return
        self.last_news = time.monotonic()
        for listener in self.listeners:
            listener(event)

    async def settle(self) -> None:
        """Wait for the last webhooks, which stand-ins send some time after the calls."""
        while (quiet := time.monotonic() - self.last_news) < 2:  # noqa: ASYNC110
            await asyncio.sleep(2 - quiet)

    async def broker_checks(self) -> list[Check]:
        channel = await self.connection.channel()
        waiting = dead = 0
        for queue in (*topology.QUEUES, topology.WEBHOOKS):
            if queue in topology.QUEUES:
                waiting += await _depth(channel, queue.name)
            dead += await _depth(channel, queue.dead)
        async with self.client("viewer") as http:
            groups = await http.get(f"{self.url('operations-api')}/v1/dead-letters/groups")
        dead += sum(each["count"] for each in groups.raise_for_status().json())
        return [Check("messages still waiting", 0, waiting), Check("dead letters", 0, dead)]


class Part(ABC):
    """A scenario of the demo."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        stage.listeners.append(self.hear)

    async def play(self) -> bool:
        """Run the scenario. Return whether all checks passed."""
        story = asyncio.create_task(self.act())
        try:
            with Bars(self.stage.console, self.counts) as show:
                await self._until_done(story, show)
        except DevstackError as error:
            self.stage.console.print(f"[red]{error}")
        finally:
            story.cancel()
            await asyncio.gather(story, return_exceptions=True)
        await self.stage.settle()
        checks = [*await self.checks(), *await self.stage.broker_checks()]
        for table in await self.tables(checks):
            self.stage.console.print(table)
        return all(check.ok for check in checks)

    async def _until_done(self, story: asyncio.Task[None], show: Callable[[], None]) -> None:
        while not (story.done() and await self.done()):
            await asyncio.sleep(0.1)
            show()
            if story.done() and story.exception() is not None:
                raise DevstackError(f"what plays the outside world failed: {story.exception()}")
            if self.stage.broken is not None:
                raise DevstackError(self.stage.broken)
            if time.monotonic() - self.stage.last_news > _PATIENCE_SECONDS:
                raise DevstackError(f"nothing happened for {_PATIENCE_SECONDS} s")
        show()

    @abstractmethod
    async def act(self) -> None:
        """Act as the outside world."""

    @abstractmethod
    def hear(self, event: Event[Any]) -> None: ...

    @abstractmethod
    async def done(self) -> bool: ...

    @abstractmethod
    def counts(self) -> Mapping[str, tuple[int, int | None]]: ...

    @abstractmethod
    async def checks(self) -> list[Check]:
        """Check the services' own APIs and the stand-ins' records."""

    @abstractmethod
    async def tables(self, checks: list[Check]) -> list[Table]: ...


async def insist(http: httpx.AsyncClient, url: str, **request: Any) -> dict[str, Any]:
    """Post, and post again with the same key while the result is unknown or the service is busy, as
    docs/guides/checkouts.md instructs callers to do."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception(_is_passing), wait=wait_fixed(1), stop=stop_after_delay(60)
    ):
        with attempt:
            answer = (await http.post(url, **request)).raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in {
        httpx.codes.TOO_MANY_REQUESTS,
        httpx.codes.BAD_GATEWAY,
        httpx.codes.SERVICE_UNAVAILABLE,
    }


async def everything(http: httpx.AsyncClient, url: str, **filters: str) -> list[dict[str, Any]]:
    """Return all pages of a list."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        params = {**filters, "limit": "200", **({"cursor": cursor} if cursor else {})}
        answer = (await http.get(url, params=params)).raise_for_status().json()
        found += answer["items"]
        cursor = answer["next_cursor"]
        if cursor is None:
            return found


async def _depth(channel: aio_pika.abc.AbstractChannel, name: str) -> int:
    queue = await channel.declare_queue(name, passive=True)
    return queue.declaration_result.message_count or 0

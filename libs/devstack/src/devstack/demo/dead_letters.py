"""`make demo-dead-letters`: a cause is fixed, and all messages that failed because of it are
replayed while operations is killed; then outcomes are counted where each had its effect."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
from rich.console import Console

from common.contracts.event import Event
from common.contracts.payments import PaymentOutcome
from common.contracts.retry_ladder import RetryLadder
from common.contracts.topology import DEAD_LETTER_EXCHANGE
from common.messaging import dead_letter
from common.messaging.connection import BrokerConnection
from common.messaging.events import new_event
from common.messaging.publisher import Publisher
from common.messaging.topology_declarer import declaring
from devstack.addresses import DevstackError
from devstack.demo.environment import kill_workers, scene
from devstack.demo.report import Bars, Check, table_of_checks
from devstack.processes.system import Layout, System
from devstack.tokens import DevKeys

_QUEUE = "subscription.billing"
_PROCESSES = ("operations-worker", "operations-api")
_CONSUMER = "subscription-worker"
_BAD_ONE_IN = 1000
_BATCH = 500
_LOOKS = 50
_PATIENCE_SECONDS = 900
_OPERATIONS_DIES_EVERY_SECONDS = 20.0
_SEED = 700
_LADDER = "200ms,1s,2s"
_ENVIRONMENT = {"REPLAY_LEASE_SECONDS": "2", "RETRY_LADDER": _LADDER}
_ERROR = "OperationalError: the disk is full"
_STACK = """Traceback (most recent call last):
  File "/app/src/subscription/handlers.py", line 42, in on_payment
  File "/app/src/subscription/repository.py", line 17, in write
OperationalError: the disk is full
"""


def main(letters: int) -> int:
    console = Console()
    with scene("demo-dead-letters", _PROCESSES, console, extra_env=_ENVIRONMENT) as (system, keys):
        return asyncio.run(_play(DeadLetterDemo(system, keys, letters), system, console))


async def _play(cemetery: DeadLetterDemo, system: System, console: Console) -> int:
    async with cemetery:
        rate = await cemetery.measure_consumer(cemetery.count // 4)
        console.print(f"the consumer takes {rate:,.0f} messages a second")
        system.processes[_CONSUMER].stop()
        buried = time.monotonic()
        await cemetery.bury()
        with Bars(console, lambda: {"collected": (cemetery.collected, cemetery.count)}) as show:
            while await cemetery.look() < cemetery.count:
                if time.monotonic() - buried > _PATIENCE_SECONDS:
                    break
                show()
                await asyncio.sleep(0.5)
        collecting = time.monotonic() - buried
        pages = await cemetery.time_pages()
        system.start([_CONSUMER])
        trouble = asyncio.create_task(
            kill_workers(
                system,
                "operations-worker",
                random.Random(_SEED),  # noqa: S311 - the same scenario in each run
                _OPERATIONS_DIES_EVERY_SECONDS,
            )
        )
        try:
            replay = await cemetery.replay(console)
        finally:
            trouble.cancel()
            await asyncio.gather(trouble, return_exceptions=True)
        began, ended = (datetime.fromisoformat(replay[k]) for k in ("started_at", "finished_at"))
        seconds = (ended - began).total_seconds()
        checks = await cemetery.checks(replay)
        console.print(table_of_checks(f"{cemetery.count} dead letters", checks))
        console.print(
            f"stored in {collecting:.0f} s; a page of 50 in {pages['dead-letters'] * 1000:.0f} ms, "
            f"the groups in {pages['dead-letters/groups'] * 1000:.0f} ms (medians); sent again and "
            f"handled in {seconds:.0f} s: {cemetery.count / seconds:,.0f} a second, "
            f"{cemetery.count / seconds / rate:.2f} of what the consumer takes; operations killed "
            f"{system.processes['operations-worker'].restarts} times"
        )
        fast = cemetery.count / seconds > rate / 2
        return 0 if fast and all(check.ok for check in checks) else 1


class DeadLetterDemo:
    """`count` dead letters, of which one in a thousand will fail again."""

    def __init__(self, system: System, keys: DevKeys, count: int) -> None:
        self.count = count
        self.collected = 0
        self._system = system
        self._layout: Layout = system.layout
        token = keys.token("operator")
        self._http = httpx.AsyncClient(
            base_url=self._layout.url("operations-api"),
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        ladder = RetryLadder.parse(_LADDER)
        self._broker = BrokerConnection(
            self._layout.rabbitmq_url, name="demo", on_connect=declaring(ladder)
        )
        self._publisher = Publisher(self._broker, timeout=60)

    async def __aenter__(self) -> DeadLetterDemo:
        await self._broker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._broker.close()
        await self._http.aclose()

    @property
    def bad(self) -> int:
        return self.count // _BAD_ONE_IN

    async def measure_consumer(self, count: int) -> float:
        """Return the consumer's messages per second from a full queue, of the same kind and with
        the same share of bad ones."""
        await self._publish("", _payments("measured", count), None)
        before = time.monotonic()
        self._system.start([_CONSUMER])
        good = count - count // _BAD_ONE_IN
        while await asyncio.to_thread(self._payments, "measured-%") < good:
            if time.monotonic() - before > _PATIENCE_SECONDS:
                raise DevstackError("the consumer takes nothing")
            await asyncio.sleep(0.5)
        took = "extract(epoch FROM max(received_at) - min(received_at))::float8"
        of_them = "queue = %s AND id LIKE 'measured-%%'"
        seconds = self._ask(f"SELECT {took} FROM inbox WHERE {of_them}", _QUEUE)  # noqa: S608
        while await self.look() < count - good:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        if count > good:
            discarded = {"filter": {"queue": _QUEUE}, "reason": "they were for measuring"}
            answer = await self._http.post("/v1/dead-letters/discard", json=discarded)
            answer.raise_for_status()
        return count / max(seconds, 0.1)

    async def bury(self) -> None:
        now = datetime.now(UTC).isoformat()
        headers = {
            dead_letter.ATTEMPT: 6,
            dead_letter.HISTORY: f'[{{"attempt": 6, "at": "{now}", "error": "{_ERROR}"}}]',
            dead_letter.QUEUE: _QUEUE,
            dead_letter.REASON: "exhausted",
            dead_letter.ERROR: _ERROR,
            dead_letter.STACK: _STACK,
            dead_letter.DEAD_SINCE: now,
        }
        await self._publish(DEAD_LETTER_EXCHANGE, _payments("dead", self.count), headers)

    async def look(self) -> int:
        groups = await self._get("dead-letters/groups")
        self.collected = sum(each["count"] for each in groups)
        return self.collected

    async def time_pages(self) -> Mapping[str, float]:
        """Return the median response time of each page, in seconds."""
        found = {}
        for path in ("dead-letters", "dead-letters/groups"):
            times = []
            for _ in range(_LOOKS):
                before = time.perf_counter()
                await self._get(path)
                times.append(time.perf_counter() - before)
            found[path] = statistics.median(times)
        return found

    async def replay(self, console: Console) -> dict[str, Any]:
        body = {"filter": {}, "reason": "the disk has room again", "concurrency": 5000}
        answer = await self._http.post("/v1/replays", json=body)
        ordered = answer.raise_for_status().json()
        state = dict(ordered)
        started = time.monotonic()
        with Bars(console, lambda: {"completed": (state["completed"], self.count)}) as show:
            while state["state"] != "done" and time.monotonic() - started < _PATIENCE_SECONDS:
                await asyncio.sleep(0.5)
                state.update(await self._get(f"replays/{ordered['id']}"))
                show()
        if state["state"] != "done":
            raise DevstackError(f"the replay does not end: {state}")
        return state

    async def checks(self, replay: Mapping[str, Any]) -> Sequence[Check]:
        counts = replay["counts"]
        metrics = await self._http.get(f"{self._layout.url(_CONSUMER)}/metrics")
        return [
            Check("succeeded", self.count - self.bad, counts.get("succeeded", 0)),
            Check("failed again", self.bad, counts.get("failed_again", 0)),
            Check("payments in the subscription service", self.count - self.bad,
                  await asyncio.to_thread(self._payments, "dead-%")),
            Check("sent twice, which the inbox held back", 0, _duplicates(metrics.text)),
            Check("open dead letters", self.bad, await self.look()),
        ]  # fmt: skip

    async def _publish(
        self, exchange: str, events: Sequence[Event[Any]], headers: Mapping[str, Any] | None
    ) -> None:
        for start in range(0, len(events), _BATCH):
            part = events[start : start + _BATCH]
            failures = await self._publisher.publish_all(
                [(exchange, _QUEUE, each.encode()) for each in part],
                headers=[headers] * len(part) if headers is not None else None,
            )
            for failed in failures:
                if failed is not None:
                    raise DevstackError(str(failed))

    def _payments(self, pattern: str) -> int:
        query = "SELECT count(*)::float8 FROM payments WHERE provider_payment_id LIKE %s"
        return int(self._ask(query, pattern))

    def _ask(self, query: str, parameter: str) -> float:
        """Return one figure from the subscription service's database."""
        url = self._layout.databases["subscription"].replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            row = connection.execute(query, [parameter]).fetchone()
        assert row is not None
        return float(row[0])

    async def _get(self, path: str) -> Any:
        return (await self._http.get(f"/v1/{path}")).raise_for_status().json()


def _payments(prefix: str, count: int) -> Sequence[Event[PaymentOutcome]]:
    return [
        _payment(f"{prefix}-{n}", reason="\0" if n % _BAD_ONE_IN == 0 else None)
        for n in range(1, count + 1)
    ]


def _payment(id_: str, reason: str | None = None) -> Event[PaymentOutcome]:
    """Return a payment. A NUL in `reason` makes it impossible to write: PostgreSQL stores none."""
    return new_event(
        id=id_,
        type="payment.failed",
        source="/demo",
        subject=id_,
        tenant="default",
        data=PaymentOutcome(
            provider="stripe",
            payment_id=id_,
            customer_id=f"cus_{id_}",
            amount=100,
            currency="USD",
            reason=reason,
        ),
    )


def _duplicates(metrics: str) -> int:
    name = f'paybus_messages_consumed_total{{outcome="duplicate",queue="{_QUEUE}"}}'
    return sum(
        int(float(line.rsplit(" ", 1)[1])) for line in metrics.splitlines() if line.startswith(name)
    )

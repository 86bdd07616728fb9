"""Payouts of one worker, to a provider that takes 300 ms to answer."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg

from benchmarks.sides import Peer, wait
from devstack.processes.process import Process
from devstack.processes.stack import Stack
from devstack.processes.system import System, create_databases, migrate, plan
from devstack.tokens import DevKeys

LATENCY_SECONDS = 0.3

_BATCH = 5_000
_CONCURRENCY = 200
_SELLERS = 50
_OPTIONS = {"max_concurrency": 500, "rate_per_second": 1000}
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Paid:
    """`cpu_ms` is the worker's, for each payout; `over_pool` how many connections to the database
    it had at the most beyond its pool's limit."""

    per_minute: float
    cpu_ms: float
    over_pool: int


class Paybus:
    def __init__(self, stack: Stack, logs: Path) -> None:
        name = f"bench_{uuid4().hex[:8]}"
        self._keys = DevKeys(logs / "keys")
        self._layout = plan(
            stack,
            virtual_host=name,
            databases=create_databases(stack, f"{name}_"),
            keys=self._keys,
            prefer_ports=False,
            extra_env={"CONCURRENCY": str(_CONCURRENCY)},
            payout_options=_OPTIONS,
        )
        migrate(self._layout, logs)
        self.system = System(stack, self._layout, logs)
        self.system.start(["sandbox-providers"], restart=False)
        self._url = self._layout.databases["payouts"].replace("+psycopg", "")
        self._database = psycopg.connect(self._url, autocommit=True)
        self._ordered = 0
        with self._process("payouts-worker"), self._process("payouts-api"):
            self._add_sellers()
        self.sandbox = f"{self._layout.url('sandbox-providers')}/stripe"
        _behave(self._layout.url("sandbox-providers"))

    def pay(self, count: int) -> Paid:
        """Order payouts, then start a worker; measured from the first tenth on."""
        self.order(count)
        before = self._paid()
        with self._process("payouts-worker") as worker, self._watched() as most:
            self._until(before + count // 10)
            first, started, cpu = self._paid(), time.perf_counter(), _cpu_seconds(worker)
            self._until(before + count)
            seconds = time.perf_counter() - started
            used = _cpu_seconds(worker) - cpu
        done = before + count - first
        pool = int(worker.spec.env.get("DATABASE_POOL_SIZE", "10"))
        return Paid(done / seconds * 60, used / done * 1000, most[0] - pool)

    def order(self, count: int, *, in_: timedelta = timedelta()) -> None:
        due_at = (datetime.now(UTC) + in_).isoformat() if in_ else None
        with self._process("payouts-api"):
            for start in range(0, count, _BATCH):
                self._order_batch(min(_BATCH, count - start), due_at)

    def _order_batch(self, size: int, due_at: str | None) -> None:
        payouts = [
            {
                "recipient": f"seller-{(self._ordered + number) % _SELLERS}",
                "amount": 1000,
                "currency": "USD",
                "due_at": due_at,
            }
            for number in range(size)
        ]
        self._ordered += size
        body = {"name": "bench", "payouts": payouts}
        self._post("/v1/batches", body)

    def _add_sellers(self) -> None:
        for number in range(_SELLERS):
            body = {
                "reference": f"seller-{number}",
                "name": "Seller",
                "provider": "stripe",
                "account": "payouts",
                "currency": "USD",
                "details": {"account": f"acct_{number:016}"},
            }
            self._post("/v1/recipients", body)

    def _post(self, path: str, body: object) -> None:
        headers = {
            "Authorization": f"Bearer {self._keys.token('admin')}",
            "Idempotency-Key": uuid4().hex,
        }
        url = f"{self._layout.url('payouts-api')}{path}"
        httpx.post(url, json=body, headers=headers, timeout=120).raise_for_status()

    def _until(self, paid: int) -> None:
        wait(lambda: self._paid() >= paid, what=f"{paid} payouts are paid")

    def _paid(self) -> int:
        return self._count("SELECT count(*) FROM payouts WHERE paid_at IS NOT NULL")

    def _count(self, query: str) -> int:
        row = self._database.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    @contextmanager
    def _watched(self) -> Iterator[list[int]]:
        """The largest number of connections that the worker has: only it and we have any."""
        most, stop = [0], threading.Event()

        def look() -> None:
            with psycopg.connect(self._url, autocommit=True) as connection:
                while not stop.wait(0.1):
                    row = connection.execute(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                        "AND backend_type = 'client backend'"
                    ).fetchone()
                    assert row is not None
                    most[0] = max(most[0], int(row[0]) - 2)

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield most
        finally:
            stop.set()
            watcher.join()

    @contextmanager
    def _process(self, name: str) -> Iterator[Process]:
        started = self.system.start_one(self._layout.spec(name))
        started.wait_ready()
        try:
            yield started
        finally:
            started.stop()


def celery(peer: Peer, sandbox: str, count: int) -> float:
    """Payouts a minute of a Celery worker with sixteen processes."""
    peer.order_payouts(sandbox, count)
    with peer.payer():
        wait(lambda: peer.paid() >= count // 10, what="a tenth is paid")
        first, started = peer.paid(), time.perf_counter()
        wait(lambda: peer.paid() >= count, what="all are paid")
        return (count - first) / (time.perf_counter() - started) * 60


def _behave(sandbox: str) -> None:
    body = {"delay_seconds": LATENCY_SECONDS}
    httpx.put(f"{sandbox}/_payouts/behaviour", json=body).raise_for_status()


def _cpu_seconds(process: Process) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS

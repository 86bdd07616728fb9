"""Bank data: transactions that one worker writes, and how soon a change at the bank is seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg

from benchmarks.sides import Peer, wait
from devstack.endpoints import PLAID_CLIENT
from devstack.processes.process import Process
from devstack.processes.stack import Stack
from devstack.processes.system import System, create_databases, introduce_providers, migrate, plan
from devstack.tokens import DevKeys

TRANSACTIONS = 2_500
"""Of each item: five pages."""

# Plaid's limits are not what is measured.
_OPTIONS = {"item_syncs": 100_000, "client_syncs": 1_000_000, "client_others": 1_000_000}


class Paybus:
    def __init__(self, stack: Stack, logs: Path) -> None:
        name = f"bench_{uuid4().hex[:8]}"
        keys = DevKeys(logs / "keys")
        self._layout = plan(
            stack,
            virtual_host=name,
            databases=create_databases(stack, f"{name}_"),
            keys=keys,
            prefer_ports=False,
            bank_options=_OPTIONS,
        )
        migrate(self._layout, logs)
        self.system = System(stack, self._layout, logs)
        self.system.start(["sandbox-providers", "webhook-gateway", "bank-sync-api"], restart=False)
        introduce_providers(self._layout)
        self.sandbox = self._layout.url("sandbox-providers")
        self._token = keys.token("operator")
        url = self._layout.databases["bank-sync"].replace("+psycopg", "")
        self._database = psycopg.connect(url, autocommit=True)
        self._database.execute("SELECT set_config('paybus.every_tenant', 'on', false)")

    def apply(self, items: int) -> float:
        """Link items while no worker runs, then start one: transactions a second, from the first
        tenth on."""
        for made in open_items(self.sandbox, items):
            self._link(made["public_token"])
        before, whole = self._transactions(), items * TRANSACTIONS
        with self.worker():
            wait(lambda: self._transactions() >= before + whole // 10, what="a tenth is written")
            first, started = self._transactions(), time.perf_counter()
            wait(lambda: self._transactions() >= before + whole, what="all are written")
            return (before + whole - first) / (time.perf_counter() - started)

    def see(self, times: int) -> list[float]:
        """Seconds from a change at the bank, whose webhook comes at once, until it can be read."""
        (made,) = open_items(self.sandbox, 1, transactions=10)
        self._link(made["public_token"])
        took = []
        with self.worker():
            wait(lambda: not self._open(), what="the item is synced")
            for _ in range(times):
                before, started = self._transactions(), time.perf_counter()
                happen = f"{self.sandbox}/plaid/_items/{made['item_id']}/happenings"
                httpx.post(happen, json={"add": 1}).raise_for_status()
                while self._transactions() == before:
                    time.sleep(0.001)
                took.append(time.perf_counter() - started)
        return took

    @contextmanager
    def worker(self) -> Iterator[Process]:
        started = self.system.start_one(self._layout.spec("bank-sync-worker"))
        started.wait_ready()
        try:
            yield started
        finally:
            started.stop()

    def _link(self, public_token: str) -> None:
        httpx.post(
            f"{self._layout.url('bank-sync-api')}/v1/items",
            json={"public_token": public_token, "user": "bench"},
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=60,
        ).raise_for_status()

    def _open(self) -> int:
        return self._count("SELECT count(*) FROM sync_runs WHERE status IN ('queued', 'running')")

    def _transactions(self) -> int:
        return self._count("SELECT count(*) FROM transactions")

    def _count(self, query: str) -> int:
        row = self._database.execute(query).fetchone()
        assert row is not None
        return int(row[0])


def open_items(
    sandbox: str, count: int, *, transactions: int = TRANSACTIONS
) -> list[dict[str, str]]:
    wanted = {"client_id": PLAID_CLIENT, "count": count, "transactions": transactions}
    answer = httpx.post(f"{sandbox}/plaid/_items", json=wanted, timeout=120).raise_for_status()
    made: list[dict[str, str]] = answer.json()
    return made


def celery(peer: Peer, sandbox: str, items: int) -> float:
    """Transactions a second of a Celery worker with two processes."""
    tokens = [each["public_token"] for each in open_items(sandbox, items)]
    peer.order_syncs(f"{sandbox}/plaid", tokens)
    whole = items * TRANSACTIONS
    with peer.banker():
        wait(lambda: peer.transactions() >= whole // 10, what="a tenth is written")
        first, started = peer.transactions(), time.perf_counter()
        wait(lambda: peer.transactions() >= whole, what="all are written")
        return (whole - first) / (time.perf_counter() - started)

"""A disaster, rehearsed: a backup that was made under load, the log archived since, a database that
is lost, and the runbook restore.md. No webhook's effect is lost or doubled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from devstack.addresses import Addresses, free_ports
from devstack.processes.stack import Stack
from devstack.servers.postgres import Postgres
from devstack.tokens import DevKeys
from support.paybus import Paybus, Templates, running
from support.runbook import Walk
from support.waiting import until

_PASSWORD = "archive"
_APIS = ("subscription-api", "orders-api", "provisioning-api", "operations-api")
_WORKERS = ("subscription-worker", "provisioning-worker", "orders-worker")
_PROVISIONED = "SELECT count(*) FROM integrations WHERE status = 'provisioned'"


class Load(threading.Thread):
    """Webhooks of new customers, one after the other, until `end`."""

    def __init__(self, paybus: Paybus) -> None:
        super().__init__(daemon=True)
        self._paybus = paybus
        self._ended = threading.Event()
        self.accepted = 0

    def run(self) -> None:
        while not self._ended.wait(0.02):
            self._paybus.subscribe()
            self.accepted += 1

    def end(self) -> int:
        self._ended.set()
        self.join()
        return self.accepted


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Iterator[Postgres]:
    folder = stack.state / "archived"
    server = Postgres(folder / "server", free_ports(1)[0], _PASSWORD)
    server.archive_to(folder / "archive")
    server.start()
    yield server
    server.stop(keep_data=False)


@pytest.fixture
def paybus(server: Postgres, stack: Stack, keys: DevKeys, logs: Path) -> Iterator[Paybus]:
    with ExitStack() as exit_:
        servers = Addresses(stack.addresses.rabbitmq, server.url)
        own = exit_.enter_context(Stack(servers=servers))
        templates = Templates(own, keys, logs, own.state)
        names = ["webhook-gateway", "sandbox-backend", "operations-worker", *_APIS, *_WORKERS]
        yield exit_.enter_context(running(own, templates, keys, logs, names))


def test_a_lost_database_is_restored_from_its_archive(
    paybus: Paybus, server: Postgres, stack: Stack
) -> None:
    load = Load(paybus)
    load.start()
    until(lambda: load.accepted >= 50, what="the load flows")
    backup = stack.state / "archived" / "server" / "backup"
    server.back_up(backup)
    until(lambda: load.accepted >= 150, what="more was accepted since")
    until(lambda: paybus.sql("provisioning", _PROVISIONED)[0][0] >= 100, what="and has effects")
    paybus.sql("provisioning", "SELECT 1")
    for service in list(paybus.layout.databases):
        paybus.disconnect(service)
    server.stop(keep_data=False)
    before = load.accepted
    until(lambda: load.accepted >= before + 50, what="the gateway accepts all the same")
    accepted = load.end()
    for name in ("operations-worker", *_APIS, *_WORKERS):
        paybus.system.processes.pop(name).stop()

    at = server.restore(backup)
    (restored,) = paybus.sql("provisioning", _PROVISIONED)[0]
    assert restored < accepted, "the backup and its log are older than the disaster"
    walk = Walk(paybus, at)
    paybus.start(*_APIS, "operations-worker")
    walk.line(3)
    for name in _WORKERS:
        spec = paybus.layout.spec(name, BACKEND_LOOK_FIRST="true")
        paybus.system.start_one(spec).wait_ready()
    walk.line(7)
    until(
        lambda: paybus.sql("provisioning", _PROVISIONED) == [(accepted,)],
        what=f"{accepted} organizations",
    )
    walk.line(9)
    books = paybus.books()
    assert len(books["created"]) == accepted
    assert set(books["created"].values()) == {1}, "an organization was created twice"
    (active,) = paybus.sql(
        "subscription", "SELECT count(*) FROM subscriptions WHERE status = 'active'"
    )[0]
    assert active == accepted
    assert paybus.dead_letters() == {}

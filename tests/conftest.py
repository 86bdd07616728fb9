"""Shared fixtures: one broker and one database server for all test processes; each Paybus has its
own virtual host and clones of the databases."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from common.contracts import topology
from common.contracts.retry_ladder import RetryLadder
from common.messaging.connection import BrokerConnection
from common.messaging.topology_declarer import declaring
from devstack.addresses import Addresses, RabbitMQ
from devstack.processes.process import WARM
from devstack.processes.stack import Stack
from devstack.servers.rabbitmq import PrivateNode, find_server
from devstack.tokens import DevKeys
from support.paybus import SHORT_LADDER, Paybus, Templates, running
from support.waiting import until

# Parallel test processes each have a port range of their own.
if (_worker := os.environ.get("PYTEST_XDIST_WORKER")) is not None:
    _first = 12000 + 2000 * int(_worker.removeprefix("gw"))
    os.environ["PAYBUS_PORTS"] = f"{_first}-{_first + 1999}"

# Each process is forked from one that has imported its libraries.
os.environ.setdefault(WARM, "1")

# No example has a time limit: machines are shared.
hypothesis.settings.register_profile(
    "shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared")

MakePaybus = Callable[..., AbstractContextManager[Paybus]]


_shared = ExitStack()
_servers: dict[str, str] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Start the servers once, in xdist's controller, for all test processes."""
    if not _servers:
        stack = _shared.enter_context(Stack())
        rabbitmq = stack.addresses.rabbitmq
        _servers["rabbitmq"] = rabbitmq.url
        _servers["management"] = rabbitmq.management_url
        _servers["postgres"] = stack.addresses.postgres_url
        _servers["state"] = str(stack.state)
    node.workerinput["servers"] = _servers


def pytest_unconfigure() -> None:
    _shared.close()


_LINES, _WIDTH = 300, 400


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last log lines of a failed test's processes to its report."""
    report = yield
    values = getattr(item, "funcargs", {}).values() if report.failed else ()
    for paybus in (each for each in values if isinstance(each, Paybus)):
        for name, process in paybus.system.processes.items():
            lines = [line[:_WIDTH] for line in process.tail(_LINES).splitlines()]
            troubled = [line for line in lines[:-3] if '"level": "info"' not in line]
            lines = [*troubled[-10:], *lines[-3:]]
            state = "running" if process.is_running() else "ended"
            report.sections.append((f"{name}, {state}", "\n".join(lines)))
    return report


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> DevKeys:
    return DevKeys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest) -> dict[str, str] | None:
    """Return the addresses of the shared servers if tests run in several processes."""
    found: dict[str, str] | None = getattr(request.config, "workerinput", {}).get("servers")
    return found


@pytest.fixture(scope="session")
def stack(shared: dict[str, str] | None) -> Iterator[Stack]:
    servers = None
    if shared:
        rabbitmq = RabbitMQ(shared["rabbitmq"], shared["management"])
        servers = Addresses(rabbitmq, shared["postgres"])
    with Stack(servers=servers) as started:
        yield started


@pytest.fixture(scope="session")
def templates(stack: Stack, keys: DevKeys, logs: Path, shared: dict[str, str] | None) -> Templates:
    return Templates(stack, keys, logs, Path(shared["state"]) if shared else stack.state)


@pytest.fixture(scope="session")
def make_paybus(stack: Stack, templates: Templates, keys: DevKeys, logs: Path) -> MakePaybus:
    """`with make_paybus(["webhook-gateway"], SETTING="value") as paybus: ...`"""
    return partial(running, stack, templates, keys, logs)


# Started first, so that no long file runs alone at the end.
_LONG = (
    "test_payouts_restore", "test_broker_trouble", "test_database_trouble", "test_billing_turns",
    "test_messaging", "test_spool", "test_payout_books", "test_operations", "test_runtime",
    "test_promise_6_any_process_may_die", "test_provisioning", "test_orders", "test_checkouts",
    "test_payouts", "test_relay_and_inbox", "test_bank_sync", "test_billing",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def order(item: pytest.Item) -> int:
        return _LONG.index(item.path.stem) if item.path.stem in _LONG else len(_LONG)

    items.sort(key=order)


async def _declare(url: str) -> None:
    declare = declaring(RetryLadder.parse(SHORT_LADDER))
    broker = BrokerConnection(url, name="tests", on_connect=declare)
    await broker.start()
    try:
        await (await broker.channel(within=60)).close()
    finally:
        await broker.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateNode]:
    """Start a broker for one test module, which may kill it and raise its alarms. Its topology is
    on disk."""
    server = find_server()
    if server is None:
        pytest.skip("needs a RabbitMQ on this machine to kill")
    node = PrivateNode(server, tmp_path_factory.mktemp("rabbitmq"), "secret-of-this-test")
    node.start()
    asyncio.run(_declare(node.address.url))
    queues = [name for each in topology.QUEUES for name in (each.name, each.dead)]
    until(lambda: node.has_written([*queues, topology.WEBHOOKS.dead]), what="it is written")
    yield node
    node.stop(keep_data=False)


@pytest.fixture(scope="module")
def whole_paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    """Run every process of one subscription's path, shared by the tests of a module."""
    names = [
        "webhook-gateway",
        "subscription-worker",
        "subscription-api",
        "provisioning-worker",
        "provisioning-api",
        "sandbox-backend",
    ]
    with make_paybus(names, BACKEND_TIMEOUT_SECONDS="2") as paybus:
        yield paybus

"""The previous version's databases, filled by its demo, are taken over without a row lost.

`version-0.2.0/` has what `pg_dump` wrote after `make demo N=20` of that version. Every later
migration has to apply to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, LiteralString, cast
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from conftest import MakePaybus
from devstack.addresses import DevstackError
from devstack.processes.process import run_once
from devstack.processes.stack import Stack
from devstack.processes.system import SERVICES
from support import previous_version
from support.paybus import Paybus
from support.payouts import cli
from support.waiting import until

_SCHEMA = """
SELECT 'column', table_name, column_name, data_type, is_nullable, column_default
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT 'index', tablename, indexname, indexdef, NULL, NULL
FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), NULL, NULL
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'policy', tablename, policyname, qual, with_check, cmd FROM pg_policies
"""
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"

# What the demo left, by service: a query, and where the API lists the same.
_LISTED = (
    ("subscription", "subscriptions", "/v1/subscriptions"),
    ("subscription", "payments", "/v1/payments"),
    ("subscription", "checkouts", "/v1/checkouts"),
    ("subscription", "customers", "/v1/customers"),
    ("provisioning", "integrations", "/v1/integrations"),
    ("payouts", "payouts", "/v1/payouts"),
    ("payouts", "recipients", "/v1/recipients"),
    ("orders", "orders", "/v1/orders"),
    ("bank-sync", "bank_items", "/v1/items"),
)


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, int]]:
    """The rows of each table, by service, before the migrations."""
    return {}


@pytest.fixture(scope="module")
def paybus(
    make_paybus: MakePaybus, stack: Stack, logs: Path, counted: dict[str, dict[str, int]]
) -> Iterator[Paybus]:
    """A Paybus whose databases are the previous version's, migrated by this one."""
    with make_paybus() as paybus:
        databases = cast(dict[str, str], paybus.layout.databases)
        for service in SERVICES:
            name = f"upgraded_{paybus.virtual_host}_{service}"
            databases[service] = stack.database(name)
            previous_version.restore(service, databases[service])
            counted[service] = _count(stack, databases[service])
            run_once(paybus.layout.migration(service), logs)
        yield paybus
        for service in SERVICES:
            paybus.disconnect(service)
            stack.drop_database(databases[service].rpartition("/")[2])


def _asked(stack: Stack, url: str, query: LiteralString | sql.Composed) -> list[tuple[Any, ...]]:
    """Ask as the server's owner: row security hides nothing from it."""
    server = urlsplit(stack.addresses.postgres_url)._replace(path=urlsplit(url).path)
    with psycopg.connect(server.geturl()) as connection:
        return connection.execute(query).fetchall()


def _count(stack: Stack, url: str) -> dict[str, int]:
    tables = [name for (name,) in _asked(stack, url, _TABLES)]
    counting = sql.SQL("SELECT count(*) FROM {}")
    return {
        name: _asked(stack, url, counting.format(sql.Identifier(name)))[0][0] for name in tables
    }


@pytest.mark.parametrize("service", SERVICES)
def test_an_upgraded_schema_is_that_of_a_new_installation(
    paybus: Paybus, service: str, make_paybus: MakePaybus, stack: Stack
) -> None:
    with make_paybus() as new:
        expected, found = (
            sorted(_asked(stack, each.layout.databases[service], _SCHEMA), key=str)
            for each in (new, paybus)
        )
    assert found == expected


@pytest.mark.parametrize("service", SERVICES)
def test_an_upgrade_keeps_every_row(
    paybus: Paybus, service: str, counted: dict[str, dict[str, int]], stack: Stack
) -> None:
    before, after = counted[service], _count(stack, paybus.layout.databases[service])
    assert before == {table: after[table] for table in before}
    assert sum(before.values()) > len(before), "the demo has filled it"


def test_an_upgraded_system_serves_what_the_previous_version_left(
    paybus: Paybus, stack: Stack
) -> None:
    paybus.start(*{f"{service}-api" for service, _, _ in _LISTED})
    counting = sql.SQL("SELECT count(*) FROM {} WHERE tenant = 'default'")
    for service, table, path in _LISTED:
        query = counting.format(sql.Identifier(table))
        (expected,) = _asked(stack, paybus.layout.databases[service], query)[0]
        assert expected > 0, table
        assert _listed(paybus, service, path) == expected, path
    assert cli(paybus, "verify-ledger").returncode == 0


def _listed(paybus: Paybus, service: str, path: str) -> int:
    """Count the items of all pages."""
    count, query = 0, {"limit": "100"}
    while True:
        answer = paybus.api("GET", service, path, role="viewer", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        count += len(page["items"])
        if not page.get("next_cursor"):
            return count
        query = {"limit": "100", "cursor": page["next_cursor"]}


_PATH_OF_A_WEBHOOK = ("webhook-gateway", "subscription-worker", "provisioning-worker")


def test_an_upgraded_system_takes_webhooks(paybus: Paybus) -> None:
    paybus.start(*_PATH_OF_A_WEBHOOK, "sandbox-backend")
    _five_subscriptions_make_five_organizations(paybus)
    assert paybus.dead_letters() == {}


def _five_subscriptions_make_five_organizations(paybus: Paybus) -> None:
    query = "SELECT count(*) FROM integrations WHERE status = 'provisioned'"
    (before,) = paybus.sql("provisioning", query)[0]
    for _ in range(5):
        paybus.subscribe()
    until(
        lambda: paybus.sql("provisioning", query) == [(before + 5,)],
        what="five organizations more",
    )


def test_the_previous_version_runs_on_the_upgraded_databases(paybus: Paybus) -> None:
    """The way back: its images start again, and the databases stay as they are."""
    try:
        python = previous_version.python()
    except DevstackError as error:
        pytest.skip(str(error))
    paybus.system.stop()
    paybus.start("sandbox-backend")
    for name in _PATH_OF_A_WEBHOOK:
        spec = replace(paybus.layout.spec(name), python=python)
        paybus.system.start_one(spec).wait_ready()
    _five_subscriptions_make_five_organizations(paybus)

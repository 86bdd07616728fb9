"""Migrations run while the previous version's processes use the tables."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import psycopg
import pytest

from conftest import MakePaybus
from devstack.processes.process import run_once
from devstack.processes.stack import Stack
from support import previous_version
from support.paybus import Paybus
from support.waiting import until

_SERVICE = "subscription"
_WAITS = """
SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE c.relname = 'customers' AND NOT l.granted
"""


@pytest.fixture
def paybus(make_paybus: MakePaybus, stack: Stack) -> Iterator[Paybus]:
    """Its subscription database is the previous version's."""
    with make_paybus() as paybus:
        databases = cast(dict[str, str], paybus.layout.databases)
        databases[_SERVICE] = stack.database(f"previous_{paybus.virtual_host}")
        previous_version.restore(_SERVICE, databases[_SERVICE])
        yield paybus
        paybus.disconnect(_SERVICE)
        stack.drop_database(databases[_SERVICE].rpartition("/")[2])


def test_a_migration_waits_for_transactions_and_none_of_them_for_it(
    paybus: Paybus, logs: Path
) -> None:
    """A worker's transaction has changed a table that the migration is about to change, and then
    reads one that the migration has changed before."""
    url = paybus.layout.databases[_SERVICE].replace("+psycopg", "")
    migration = paybus.layout.migration(_SERVICE)
    with psycopg.connect(url) as worker, ThreadPoolExecutor() as pool:
        worker.execute("UPDATE customers SET email = email")
        migrating = pool.submit(run_once, migration, logs)
        until(lambda: paybus.sql(_SERVICE, _WAITS)[0][0], what="the migration waits")
        worker.execute("SET statement_timeout = '30s'")
        assert worker.execute("SELECT count(*) FROM plans").fetchone() is not None
        assert not migrating.done()
        worker.commit()
        migrating.result(timeout=120)
    (revision,) = paybus.sql(_SERVICE, "SELECT version_num FROM alembic_version")[0]
    assert revision > "0001"


def test_a_migration_that_was_interrupted_is_continued(paybus: Paybus, logs: Path) -> None:
    """Its index was left half built by a process that was killed."""
    paybus.sql(_SERVICE, 'CREATE INDEX payments_references ON payments ("currency")')
    run_once(paybus.layout.migration(_SERVICE), logs)
    run_once(paybus.layout.migration(_SERVICE), logs)
    query = "SELECT indexdef FROM pg_indexes WHERE indexname = 'payments_references'"
    assert "USING gin" in paybus.sql(_SERVICE, query)[0][0]


def test_migrations_that_run_at_once_wait_for_one_another(paybus: Paybus, logs: Path) -> None:
    """An index that one of them creates waits for no transaction of the others."""
    migration = paybus.layout.migration(_SERVICE)
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(run_once, migration, logs / str(n)) for n in range(3)]
        for each in done:
            each.result(timeout=120)


def test_a_database_that_a_newer_version_migrated_is_left_as_it_is(
    paybus: Paybus, logs: Path
) -> None:
    """The way back: the migration of the version before runs again."""
    paybus.sql(_SERVICE, "UPDATE alembic_version SET version_num = '9999'")
    run_once(paybus.layout.migration(_SERVICE), logs)
    assert paybus.sql(_SERVICE, "SELECT version_num FROM alembic_version") == [("9999",)]
    assert "database_is_ahead" in (logs / f"{_SERVICE}-migrate.log").read_text()

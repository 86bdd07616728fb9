"""Structure and names: every service has the same packages, and retired names stay unused."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from common.contracts.registry import EVENT_TYPES
from common.resilience import circuit_store, rate_limiter

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {path.name: path for path in ROOT.glob("services/*/src/*") if path.is_dir()}
PACKAGES = SOURCES | {"common": ROOT / "libs/common/src/common"}
SHELL = ("__main__.py", "bootstrap.py", "domain.py", "handlers.py", "metrics.py", "models.py",
         "settings.py", "migrations")  # fmt: skip
RETIRED = json.loads(Path(__file__).with_name("retired_names.json").read_text())
_OTHERS = ("libs/devstack/src/devstack", "sandbox/src/sandbox", "tests/chaos")
_SETTING = re.compile(r"^    ([a-z_]+): ", re.M)


@pytest.mark.parametrize("service", SOURCES)
def test_a_service_has_the_shell(service: str) -> None:
    missing = [name for name in SHELL if not (SOURCES[service] / name).exists()]
    assert missing == []


@pytest.mark.parametrize("service", SOURCES)
def test_a_room_says_what_is_in_it(service: str) -> None:
    """One line, and no code."""
    for room in SOURCES[service].rglob("__init__.py"):
        body = ast.parse(room.read_text()).body
        assert all(isinstance(each, ast.Expr) for each in body), room
        assert not body or "\n" not in str(ast.get_docstring(ast.parse(room.read_text()))), room


def test_no_module_has_a_retired_name() -> None:
    roots = [*PACKAGES.values(), *(ROOT / each for each in _OTHERS)]
    there = {
        f"{root.name}/{path.relative_to(root)}" for root in roots for path in root.rglob("*.py")
    }
    assert there & {*RETIRED["modules"]} == set()


def test_no_class_has_a_retired_name() -> None:
    there = {f"{name}.{each.name}" for name, path in PACKAGES.items() for each in _classes(path)}
    assert there & {*RETIRED["classes"]} == set()


def test_no_event_metric_alert_or_setting_has_a_retired_name() -> None:
    assert {*EVENT_TYPES} & {*RETIRED["events"]} == set()
    alerts = (ROOT / "deploy/observability/alerts.py").read_text()
    assert [each for each in RETIRED["alerts"] if f'"{each}"' in alerts] == []
    settings = {
        name
        for package in PACKAGES.values()
        for path in package.rglob("*settings.py")
        for name in _SETTING.findall(path.read_text())
    }
    assert settings & {*RETIRED["settings"]} == set()
    texts = "".join(path.read_text() for root in PACKAGES.values() for path in root.rglob("*.py"))
    assert [each for each in RETIRED["metrics"] if f'"{each}"' in texts] == []


def test_no_table_or_column_has_a_retired_name() -> None:
    bases = [import_module(f"{service}.models").Base for service in SOURCES]
    found = {
        service: list(metadata.tables.values())
        for service, metadata in (
            *((base.__module__.partition(".")[0], base.metadata) for base in bases),
            ("common", rate_limiter.metadata),
            ("common circuits", circuit_store.metadata),
        )
    }
    names = {
        f"{service.split()[0]}.{each.name}" for service, tables in found.items() for each in tables
    }
    assert names & {*RETIRED["tables"]} == set()
    columns = {
        column.name for tables in found.values() for each in tables for column in each.columns
    }
    assert columns & {*RETIRED["columns"]} == set()


@pytest.mark.parametrize("service", SOURCES)
def test_the_first_release_s_tables_are_one_migration_and_later_ones_follow(service: str) -> None:
    versions = SOURCES[service] / "migrations/versions"
    first, *later = sorted(each.name for each in versions.glob("*.py"))
    assert first == "0001_tables.py"
    assert [each[:5] for each in later] == [f"{n:04}_" for n in range(2, 2 + len(later))]


@pytest.mark.parametrize("service", SOURCES)
def test_sql_is_in_the_repository(service: str) -> None:
    """In a package's, or a capability's own; bank-sync's `row_security.py` sets a transaction's
    tenant."""
    builders = {"select", "insert", "update", "delete", "text"}
    elsewhere = [
        str(path.relative_to(SOURCES[service]))
        for path in SOURCES[service].rglob("*.py")
        if not {"repository", "repository.py", "models.py", "migrations", "row_security.py"}
        & {*path.relative_to(SOURCES[service]).parts}
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.ImportFrom)
        and (each.module or "").startswith("sqlalchemy")
        and builders & {name.name for name in each.names}
    ]
    assert elsewhere == []


def _classes(package: Path) -> Iterator[ast.ClassDef]:
    for path in package.rglob("*.py"):
        yield from (
            each for each in ast.parse(path.read_text()).body if isinstance(each, ast.ClassDef)
        )

"""No endpoint of bank-sync displays or changes another tenant's rows: every query is scoped, and
PostgreSQL enforces it if the scoping is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from conftest import MakePaybus
from devstack.addresses import free_ports
from support.banks import OPTIONS, PROCESSES, QUICK, get, link, until_synced
from support.paybus import Paybus
from support.waiting import until

ROOT = Path(__file__).parents[3]
THEIRS = "theirs"
# Code that scopes a query by its tenant, and the same code without the scoping.
SCOPING = {
    "common/db/tenant_rows.py": [
        ("row is None or row.tenant != tenant", "row is None"),
        ("select(table).where(table.tenant == tenant)", "select(table)"),
    ],
    "bank_sync/repository.py": [("InstitutionHour.tenant == tenant,", "")],
}


@pytest.fixture(scope="module")
def paybus(make_paybus: MakePaybus) -> Iterator[Paybus]:
    with make_paybus(PROCESSES, bank_options=OPTIONS, **QUICK) as paybus:
        item = link(paybus)
        until_synced(paybus, item)
        yield paybus


@pytest.fixture(scope="module", params=["scoped", "scoping forgotten"])
def url(
    request: pytest.FixtureRequest, paybus: Paybus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Return the URL of an API as it is, or of one whose queries lack the tenant."""
    if request.param == "scoped":
        yield paybus.layout.url("bank-sync-api")
        return
    folder = tmp_path_factory.mktemp("forgetful")
    shutil.copytree(ROOT / "libs/common/src/common", folder / "common")
    shutil.copytree(ROOT / "services/bank-sync/src/bank_sync", folder / "bank_sync")
    for path, changes in SCOPING.items():
        source = (folder / path).read_text()
        for scoped, forgotten in changes:
            assert scoped in source, f"{path} scopes by something else: {scoped}"
            source = source.replace(scoped, forgotten)
        (folder / path).write_text(source)
    (port,) = free_ports(1)
    spec = paybus.layout.spec("bank-sync-api", HTTP_PORT=str(port), PYTHONPATH=str(folder))
    with subprocess.Popen(
        [sys.executable, "-m", "bank_sync", "api"],
        env=dict(spec.env),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        address = f"http://127.0.0.1:{port}"
        until(lambda: _ready(address), what="the forgetful API is ready")
        yield address
        process.terminate()


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz").is_success
    except httpx.TransportError:
        return False


def test_every_endpoint_refuses_another_tenant(paybus: Paybus, url: str) -> None:
    ids = {
        name: get(paybus, name)["items"][0]["id"]
        for name in ("items", "accounts", "transactions", "syncs")
    }
    token = paybus.token("admin", tenant=THEIRS)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as http:
        described = http.get("/openapi.json").json()["paths"]
        tried = 0
        for path, methods in described.items():
            if not path.startswith("/v1/") or path.startswith("/v1/schedules"):
                continue
            for method in methods:
                tried += 1
                answer = _try(http, method, path, ids)
                shown = answer.text if answer.is_success else ""
                assert not any(id_ in shown for id_ in ids.values()), (method, path)
                if "{" in path and "health" not in path:
                    assert answer.status_code == 404, (method, path, answer.status_code)
    assert tried >= 18
    untouched = get(paybus, f"items/{ids['items']}")
    assert (untouched["health"], untouched["removing_at"]) == ("healthy", None)
    assert get(paybus, "transactions")["items"]


def _try(http: httpx.Client, method: str, path: str, ids: dict[str, str]) -> httpx.Response:
    kind = path.split("/")[2]
    url = path.replace("{id_}", ids.get(kind, "x")).replace("{institution_id}", "ins_109508")
    params = {"first": "2026-01-01", "last": "2027-01-01"} if path.endswith(".csv") else {}
    body: dict[str, Any] | None = None
    if method == "post":
        body = {"user": "x", "public_token": "x"} if path == "/v1/items" else {}
    return http.request(method, url, params=params, json=body)


def test_a_transaction_that_says_nothing_sees_nothing(paybus: Paybus) -> None:
    database = paybus.layout.databases["bank-sync"].replace("+psycopg", "")
    secured = "SELECT relname FROM pg_class WHERE relforcerowsecurity ORDER BY 1"
    with psycopg.connect(database) as connection:
        tables = [row[0] for row in connection.execute(secured).fetchall()]
        assert len(tables) == 6
        for table in tables:
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
            assert connection.execute(query).fetchone() == (0,)
        connection.execute("SELECT set_config('paybus.tenant', %s, true)", [THEIRS])
        assert connection.execute("SELECT count(*) FROM transactions").fetchone() == (0,)
        connection.execute("SELECT set_config('paybus.tenant', 'default', true)")
        assert connection.execute("SELECT count(*) FROM transactions").fetchone() != (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE bank_items SET tenant = %s", [THEIRS])

"""How `paybus-payouts` talks: to the API, and to whoever reads its output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn
from uuid import uuid4

import httpx
import typer
from pydantic import HttpUrl, SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from common.settings import Settings, load

# A file or a pipe has no width: nothing is cut off there.
console = Console() if sys.stdout.isatty() else Console(width=250, no_color=True)


class ApiAddress(Settings):
    payouts_url: HttpUrl
    paybus_token: SecretStr


@contextmanager
def api() -> Iterator[httpx.Client]:
    settings = load(ApiAddress)
    headers = {"Authorization": f"Bearer {settings.paybus_token.get_secret_value()}"}
    with httpx.Client(base_url=str(settings.payouts_url), headers=headers, timeout=30) as http:
        yield http


def listed(path: str, filters: Mapping[str, Any], most: int) -> list[Any]:
    """Up to `most`, over as many pages as that takes."""
    given = {name: value for name, value in filters.items() if value is not None}
    found: list[Any] = []
    cursor = None
    while len(found) < most:
        params = given | {"limit": min(200, most - len(found))}
        page = call("GET", path, params=params | ({"cursor": cursor} if cursor else {}))
        found += page["items"]
        if (cursor := page["next_cursor"]) is None:
            break
    return found


def print_table(found: list[Any], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    table = Table(box=None)
    for name in columns:
        # Ids are for copying.
        table.add_column(name, no_wrap=name in {"id", "payout_id"}, overflow="fold")
    for each in found:
        table.add_row(*(_cell(each[name]) for name in columns))
    console.print(table)


def path_of(path: str) -> str:
    return path if path.startswith("/") else f"/api/v1/{path}"


def call(method: str, path: str, **request: Any) -> Any:
    with api() as http:
        answer = http.request(method, path_of(path), **request)
    if not answer.is_success:
        refused(answer)
    return answer.json()


def refused(answer: httpx.Response) -> NoReturn:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:400]
    die(f"{answer.status_code}: {detail}")


def new_call_key(key: str | None) -> Mapping[str, str]:
    if key is None:
        key = f"cli-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"
        typer.echo(f"Idempotency-Key: {key}", err=True)
    return {"Idempotency-Key": key}


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def die(sentence: str, status: int = 1) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(status)


@contextmanager
def progress_bar(what: str) -> Iterator[tuple[Progress, Any]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    err = Console(stderr=True)
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        yield progress, progress.add_task(what, total=None)

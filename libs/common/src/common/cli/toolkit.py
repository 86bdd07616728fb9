"""Shared parts of the services' commands: API calls and output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn
from uuid import uuid4

import httpx
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from common.errors import PaybusError

# A file or a pipe has no width: a wide console truncates nothing there.
console = Console() if sys.stdout.isatty() else Console(width=250, no_color=True)


def run(app: typer.Typer) -> None:
    """Run the command. Print an expected error as one sentence and exit with status 1."""
    try:
        app()
    except httpx.HTTPError as error:
        fault = f"the API can't be reached: {type(error).__name__}: {error}"
    except PaybusError as error:
        fault = str(error)
    else:
        return
    typer.echo(fault, err=True)
    sys.exit(1)


class Api:
    """Client of a service's API.

    `where` returns the base URL and the token; it runs when the API is called. Paths without a
    leading slash are below `prefix`.
    """

    def __init__(self, where: Callable[[], tuple[str, SecretStr]], *, prefix: str) -> None:
        self._where = where
        self._prefix = prefix

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        url, token = self._where()
        bearer = token.get_secret_value()
        if not (bearer.isascii() and bearer.isprintable()) or " " in bearer:
            die(
                "the token is not a JSON Web Token: it contains spaces or characters outside ASCII",
                2,
            )
        headers = {"Authorization": f"Bearer {bearer}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
            yield http

    def path(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._prefix}/{path}"

    def call(self, method: str, path: str, **request: Any) -> Any:
        """Return the parsed JSON response. On an error response, print its detail and exit."""
        with self.client() as http:
            answer = http.request(method, self.path(path), **request)
        if not answer.is_success:
            refused(answer)
        return answer.json()

    def listed(self, path: str, filters: Mapping[str, Any], most: int) -> list[Any]:
        """Return up to `most` items, read page by page."""
        given = {name: value for name, value in filters.items() if value is not None}
        found: list[Any] = []
        cursor = None
        while len(found) < most:
            params = given | {"limit": min(200, most - len(found))}
            page = self.call("GET", path, params=params | ({"cursor": cursor} if cursor else {}))
            found += page["items"]
            if (cursor := page["next_cursor"]) is None:
                break
        return found


def refused(answer: httpx.Response) -> NoReturn:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:400]
    # Status 2, as for an unknown option: the call itself was wrong.
    die(f"{answer.status_code}: {detail}", 2 if answer.status_code in {400, 422} else 1)


def new_call_key(key: str | None) -> Mapping[str, str]:
    if key is None:
        key = f"cli-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"
        typer.echo(f"Idempotency-Key: {key}", err=True)
    return {"Idempotency-Key": key}


def print_table(found: Sequence[Any], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    table = Table(box=None)
    for name in columns:
        # Ids stay on one line so that they can be copied.
        table.add_column(name, no_wrap=name in {"id", "payout_id"}, overflow="fold")
    for each in found:
        table.add_row(*(_cell(each[name]) for name in columns))
    console.print(table)


def _cell(value: Any) -> Text:
    """Return the value as plain text: foreign input is neither markup nor a control code."""
    return plain("" if value is None else str(value))


def plain(text: str, style: str = "") -> Text:
    """Return text for a terminal, with a space in place of each control character."""
    return Text("".join(each if each.isprintable() else " " for each in text), style=style)


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
